"""One pass of all sensors: what it runs, what it says, and what stops it."""

from __future__ import annotations

import json
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._daemon.types import DaemonHeartbeat

from retrain_assets.cli import main
from retrain_assets.orchestration import tick as passes
from retrain_assets.orchestration.dagster_internals.ticks import Executed, InProcessDaemon
from retrain_assets.orchestration.tick import TICK_TAG, OtherTickError, alone, run_pass, summarize
from retrain_assets_tests.projects import Project, yaml_of
from retrain_assets_tests.world import customers, key


def sensor_of(name: str, *, breaks: bool = False, stopped: bool = False) -> dg.Definitions:
    """A sensor `<name>_new_data` that asks once for a job, which may fail."""

    @dg.op(name=f"{name}_op")
    def _op() -> None:
        if breaks:
            raise ValueError("no space left")

    @dg.job(name=f"{name}_job", executor_def=dg.in_process_executor)
    def _job() -> None:
        _op()

    status = dg.DefaultSensorStatus.STOPPED if stopped else dg.DefaultSensorStatus.RUNNING

    @dg.sensor(name=f"{name}_new_data", job=_job, default_status=status)
    def _sensor(context: dg.SensorEvaluationContext) -> Any:
        if name == "mistaken":
            raise KeyError("mistaken")
        if context.cursor:
            return dg.SkipReason("all were read")
        context.update_cursor("read")
        return dg.RunRequest("once")

    return dg.Definitions(jobs=[_job], sensors=[_sensor])


def test_one_failure_stops_no_other_sensor(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    parts = [
        sensor_of("broken", breaks=True),
        sensor_of("idle", stopped=True),
        sensor_of("mistaken"),
        sensor_of("sound"),
    ]
    daemon = InProcessDaemon(dg.Definitions.merge(*parts), instance)
    summary = summarize(daemon, list(run_pass(daemon, tmp_path)))
    (run,) = summary["runs"]
    assert (run["sensor"], run["job"], run["failed_checks"]) == ("sound_new_data", "sound_job", [])
    errors = {failure["sensor"]: failure["error"] for failure in summary["failed"]}
    assert errors.keys() == {"broken_new_data", "mistaken_new_data"}
    assert "no space left" in errors["broken_new_data"]
    assert errors["mistaken_new_data"] == "KeyError: 'mistaken'"
    assert summary["sensors"]["idle_new_data"] == "the sensor is stopped"
    assert summary["sensors"]["sound_new_data"] == "all were read"
    # Otherwise the sensor would wait for a daemon to try a dead run again.
    for run_id in (run["run_id"], daemon.execute("sound_job", {}, {})):
        stored = instance.get_run_by_id(run_id)
        assert stored is not None
        assert stored.tags["dagster/max_retries"] == "0"


def test_a_run_that_a_stopped_pass_left_behind_is_reported_as_failed(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    daemon = InProcessDaemon(sensor_of("sound"), instance)
    job = daemon.repository.get_job("sound_job")
    started = {"status": dg.DagsterRunStatus.STARTED}
    runs = [
        instance.create_run_for_job(job, tags={TICK_TAG: str(root)}, **started)
        for root in (tmp_path, tmp_path / "other")
    ]
    list(run_pass(daemon, tmp_path))
    statuses = [instance.get_run_by_id(run.run_id).status for run in runs]  # type: ignore[union-attr]
    assert statuses == [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED]


def test_a_pass_leaves_the_sensors_to_a_daemon_that_lives(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    daemon = InProcessDaemon(sensor_of("sound"), instance)
    for age, outcome in ((600, 1), (5, 0)):
        heartbeat = DaemonHeartbeat(time.time() - age, "SENSOR", "one", [])
        instance.add_daemon_heartbeat(heartbeat)
        if outcome:
            assert len(list(run_pass(daemon, tmp_path))) == outcome
        else:
            with pytest.raises(OtherTickError, match="daemon"):
                list(run_pass(daemon, tmp_path))


def test_a_second_pass_waits_for_the_first(tmp_path: Path) -> None:
    busy = pytest.raises(OtherTickError, match="another tick works on")
    with alone(tmp_path), busy, alone(tmp_path, wait_seconds=0.1):
        pass
    with alone(tmp_path):
        pass


def test_the_command_does_what_is_due_and_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(yaml_of())
    root = project.root / "data"
    home = project.root / "home"
    home.mkdir()
    landing = root / "landing" / "customers"
    landing.mkdir(parents=True)
    customers(0).write_csv(landing / f"{key(0)}.csv")
    customers(1).with_columns(id=-1).write_csv(landing / f"{key(1)}.csv")

    def tick(code: int = 0) -> dict[str, Any]:
        environment = {"RETRAIN_STORAGE": str(root), "DAGSTER_HOME": str(home)}
        with chdir(project.root):
            result = CliRunner().invoke(main, ["tick", "--json"], env=environment)
        assert result.exit_code == code, result.output
        summary: dict[str, Any] = json.loads(result.stdout)
        return summary

    with alone(root):
        busy = tick()
    assert (busy["runs"], busy["failed"]) == ([], [])
    assert "another tick works on" in busy["busy"]
    first = tick()
    assert [run["job"] for run in first["runs"]] == ["customers_ingest", "churn_monitor"]
    assert first["busy"] is None
    assert any("values_within_range" in check for check in first["runs"][0]["failed_checks"])
    second = tick()
    assert (second["runs"], second["failed"], second["decisions"]) == ([], [], [])
    assert second["sensors"]["customers_new_data"] == (
        "2 files have landed, all were read; 1 was refused, see `retrain quarantine customers`"
    )
    broken = [Executed("customers_new_data", error="no space left")]
    monkeypatch.setattr(passes, "run_pass", lambda *_: broken)
    assert tick(code=1)["failed"] == [{"sensor": "customers_new_data", "error": "no space left"}]
