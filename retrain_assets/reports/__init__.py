"""Pictures and pages for people, drawn from frames and numbers.

Not here: computing what they show, and choosing where they are stored.
"""
