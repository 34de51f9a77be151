"""Landing files wherever they are kept: list them, read them, and refuse what cannot be read.

Not here: whether the rows keep the contract (`domain.data`).
"""
