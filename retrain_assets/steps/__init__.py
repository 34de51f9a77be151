"""What each asset does, without Dagster: load from the stores, call the domain, store."""
