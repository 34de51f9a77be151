"""What the YAML of a dataset and a model could say, guessed from a sample of somebody's data.

Not here: reading the sample, and writing files.
"""
