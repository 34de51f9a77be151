"""Let the real flights of 2013 land day by day, as data lands anywhere.

Not here: anything that a project of one's own would not do as well.
"""
