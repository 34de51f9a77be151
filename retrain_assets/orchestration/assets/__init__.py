"""The assets of datasets and models, each a call of a step and the metadata it returns.

Not here: their checks' wording, their jobs and their sensors, which stand beside this folder.
"""
