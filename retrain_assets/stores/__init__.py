"""The only I/O: files, tables, registry, ledger, messages. No Dagster."""
