"""Build the features and profiles of partitions from the tables of the datasets.

Not here: how a feature is computed (`domain.features`).
"""
