"""The YAML as pydantic models: what a user may write, its types, bounds and descriptions.

Not here: anything that reads data, and checks that need more than one document (see `components`).
"""
