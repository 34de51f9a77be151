"""The YAML as pydantic, and nothing else."""
