"""All input and output: landing files, tables, registry, ledger, messages, backups.

Not here: Dagster, and any rule about what the stored things mean.
"""
