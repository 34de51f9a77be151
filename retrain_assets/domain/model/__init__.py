"""Estimators: build a pipeline from the YAML, fit it, search its settings, predict with it.

Not here: storing a model (`stores.registry`), and choosing its rows (`steps.decision`).
"""
