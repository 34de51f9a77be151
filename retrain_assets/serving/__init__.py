"""The HTTP service of every production model, its prediction log, metrics and monitoring.

Not here: Dagster, and training.
"""
