"""The components: a spec from YAML in, Dagster definitions out."""
