"""Train candidates, compare them with production, and promote, hold, reject or roll back.

Not here: the statistics of the comparison (`domain.decision`).
"""
