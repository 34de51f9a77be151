"""The rules of the platform as pure functions: frames and numbers in, values out.

Not here: Dagster, MLflow, Delta, the clock, the environment, files, and any other input or output.
"""
