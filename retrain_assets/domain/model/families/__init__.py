"""The libraries whose estimators a model may use, one module each.

Not here: fitting and judging, and how model files are kept (`stores.registry`).
"""
