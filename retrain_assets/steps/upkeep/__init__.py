"""Keep the platform itself in order: remove old files, and send what people are to know.

Not here: the channels that messages go over (`stores.messages`).
"""
