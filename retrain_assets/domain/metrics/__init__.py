"""How good predictions are: metrics, and how sure a difference of two models is.

Not here: what follows from a difference (`domain.decision`).
"""
