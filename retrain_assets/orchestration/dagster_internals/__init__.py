"""All that reaches into private parts of Dagster; check it when Dagster's version changes.

Not here: anything that Dagster's public interface can do.
"""
