"""Answers for people: status, history, lineage, the card of a version, reproduction.

Not here: anything that changes what is stored.
"""
