"""What all tests share."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import dagster as dg
import pytest
from dagster._core.storage.defs_state import base
from hypothesis import HealthCheck, settings

from retrain_assets.cli import answers
from retrain_assets.cli import base as cli_base
from retrain_assets.domain.json_text import write_json
from retrain_assets_tests.projects import Project, new_project
from retrain_assets_tests.world import SHARED, World, new_world

# The same examples each time, however busy the machine is; `--hypothesis-profile=default` looks
# for new ones.
settings.register_profile(
    "fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fixed")
# Whatever is imported stays, and a full collection looks at all of it: 5 % of the CPU seconds.
gc.set_threshold(20_000, 50, 100)


# What takes longest begins first, so that no process works alone at the end.
LONGEST = [
    *("test_soak", "test_kills", "test_replay", "test_loop", "test_decision_faults", "test_doors"),
    *("test_monitor", "test_wheel", "test_watch", "test_cli", "test_card", "test_sensors"),
    *("test_served_model", "test_intake", "test_vacuum", "test_messages", "test_held"),
    *("test_rates", "test_prediction_log", "test_choosing", "test_operations", "test_kinds"),
    *("test_follow",),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others stay in their order."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(LONGEST)))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the worlds shared, once the process that started all others ends."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(SHARED, ignore_errors=True)


def write_checked(value: object, **options: Any) -> str:
    """Return the JSON of a command, which has to fit its schema."""
    text = write_json(value, **options)
    answers.check(click.get_current_context().command_path.partition(" ")[2], text)
    return text


patch.object(cli_base, "write_json", write_checked).start()


def get_living(_: type[base.DefsStateStorage]) -> base.DefsStateStorage | None:
    """Return the storage of Dagster's instance of the context, unless the instance is gone.

    Where work was interrupted, its context ends when its frames are collected, and only then: a
    collection in the middle of a later test brings back an instance that is gone.
    """
    storage = base._current_storage.get()
    reference = getattr(storage, "_instance_weakref", None)
    return storage if reference is not None and reference() is not None else None


patch.object(base.DefsStateStorage, "get", classmethod(get_living)).start()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def world(tmp_path: Path, instance: dg.DagsterInstance) -> World:
    return new_world(tmp_path, instance)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return new_project(tmp_path / "project", monkeypatch)
