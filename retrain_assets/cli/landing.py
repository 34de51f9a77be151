"""Commands that bring data into the landing folder.

Not here: reading the source.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial

import click

from retrain_assets.cli.project import dataset_named
from retrain_assets.cli.root import command, main, show, storage


@main.group()
def land() -> None:
    """Bring data into the landing folder; see `retrain land kafka -h`. All take --json."""


@partial(command, group=land, name="kafka")
@click.argument("dataset")
@click.option("--brokers", required=True, help="HOST:PORT, several separated by commas.")
@click.option("--topic", required=True, help="Its messages become lines of the dataset's files.")
@click.option("--max-messages", type=click.IntRange(1), default=50_000, show_default=True)
@click.option("--max-seconds", type=click.IntRange(1, 86_400), default=60, show_default=True)
@click.option("--once", is_flag=True, help="Stop at the end that the topic has now.")
def land_kafka(
    dataset: str, brokers: str, topic: str, max_messages: int, max_seconds: int, *, once: bool
) -> None:
    """Land a Kafka topic, each message exactly once, until SIGTERM or the end with --once.

    A file is written after --max-messages, 32 MiB or --max-seconds. Credentials are read from
    KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, the rest from KAFKA_SECURITY_PROTOCOL and the like.
    """
    from retrain_assets.steps import land as step
    from retrain_assets.stores.topic_files import TopicFiles

    files = TopicFiles(storage().landing, dataset_named(dataset), topic)
    bounds = step.Bounds(max_messages, max_seconds, once=once)
    with step.told_to_stop() as stop:
        tell = partial(click.echo, err=True)
        landed = asdict(step.land(files, brokers, os.environ, bounds, stop, tell))
    said = f"{dataset}: {landed['messages']:,} messages in {landed['files']:,} files"
    show({"dataset": dataset, "topic": topic} | landed, said)
