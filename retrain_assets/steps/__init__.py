"""What each asset does, without Dagster: load from the stores, call the domain, store.

Not here: rules (`domain`), input and output (`stores`), and Dagster (`orchestration`).
"""
