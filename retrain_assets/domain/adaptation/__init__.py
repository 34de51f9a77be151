"""The adaptive layer: a small model over the outputs of the newest versions of a model.

Not here: which versions these are at a partition, and storing the states (`steps.monitoring`).
"""
