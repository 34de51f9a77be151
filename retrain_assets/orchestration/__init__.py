"""The thin Dagster layer: assets, checks, sensors, jobs, partitions, resources."""
