"""Delta tables: read them, replace partitions in one commit, and detect damaged files.

Not here: the columns of any one table, which stand with the step that writes it.
"""
