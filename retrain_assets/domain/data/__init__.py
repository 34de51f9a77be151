"""The contract of a dataset: its rules, the values it accepts, and why a row is refused.

Not here: reading landing files (`stores.landing`), and which files to read (`steps.data`).
"""
