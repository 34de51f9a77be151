"""How far data, predictions and performance have moved, from small summaries of partitions.

Not here: whether a move asks for retraining (`domain.decision`), and storing the measures.
"""
