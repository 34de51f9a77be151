"""Predict new partitions, measure drift and performance, and watch a promoted version.

Not here: the measures (`domain.drift`), and whether they ask for retraining (`domain.decision`).
"""
