"""The Dagster components: a spec from YAML in, Dagster definitions out.

Not here: the fields of the YAML (`specs`), and the assets (`orchestration`).
"""
