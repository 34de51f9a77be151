"""Model versions in MLflow, and their files, which are loaded without running any code.

Not here: which version is in production (`stores.ledger`).
"""
