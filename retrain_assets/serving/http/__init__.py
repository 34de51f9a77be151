"""Requests and answers: paths, formats, keys, limits and error texts.

Not here: how a row becomes a prediction (`serving.scoring`).
"""
