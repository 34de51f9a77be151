"""From a raw row to a prediction: its contract, its features, and the model that answers.

Not here: HTTP (`serving.http`).
"""
