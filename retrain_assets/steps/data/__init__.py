"""From landing files to accepted rows and quarantine, and from a Kafka topic to landing files.

Not here: the contract itself (`domain.data`).
"""
