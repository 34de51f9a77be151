"""How features are made from rows, lookups and history, for a batch as for a single row.

Not here: reading the tables that the rows come from (`steps.features`).
"""
