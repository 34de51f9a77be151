"""A run whose process died is known to have; one that lives, or is elsewhere, is left alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import dagster as dg
import pytest

from retrain_assets.orchestration.dagster_internals.runs import PROCESS_TAG, has_died, own_process
from retrain_assets.orchestration.run_requests import REQUEST_TAG, Wish, requests


def run(tag: str) -> dg.DagsterRun:
    return dg.DagsterRun("some", tags={PROCESS_TAG: tag} if tag else {})


def ended() -> int:
    """The id of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_this_process_has_not_died() -> None:
    assert not has_died(run(own_process()[PROCESS_TAG]))


def test_a_process_that_ended_has_died() -> None:
    assert has_died(run(f"{socket.gethostname()} {ended()} 1"))


def test_another_process_of_the_same_number_is_not_it() -> None:
    assert has_died(run(f"{socket.gethostname()} {os.getpid()} 1"))


@pytest.mark.parametrize("tag", ["", "another-host 1 1"])
def test_what_is_not_known_of_this_host_is_left_alone(tag: str) -> None:
    assert not has_died(run(tag))


def test_a_run_whose_process_died_is_reported_and_asked_for_again(
    instance: dg.DagsterInstance,
) -> None:
    wish = Wish(["a file"], {})
    job = dg.job(name="some")(lambda: None)
    tags = {REQUEST_TAG: wish.digest, PROCESS_TAG: f"{socket.gethostname()} {ended()} 1"}
    left = instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    outcome = requests(dg.build_sensor_context(instance), "some", [wish])
    assert isinstance(outcome, list)
    assert outcome[0].run_key == f"{wish.digest}:1"
    found = instance.get_run_by_id(left.run_id)
    assert found is not None
    assert found.status is dg.DagsterRunStatus.FAILURE
