"""When to retrain and what to promote: causes, triggers, the gate, its guards, and replay.

Not here: reading what a decision depends on (`steps.state`), and acting on it (`steps.decision`).
"""
