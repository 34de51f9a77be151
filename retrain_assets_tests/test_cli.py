"""The command line from another folder: exit code 0 and JSON, or not 0 and one line of why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from retrain_assets import definitions
from retrain_assets.cli import main
from retrain_assets_tests.projects import new_project


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is not the project, with storage and Dagster state of its own."""
    return tmp_path_factory.mktemp("elsewhere")


def retrain(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "home").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "retrain_assets.cli", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "RETRAIN_STORAGE": str(folder / "data"),
            "DAGSTER_HOME": str(folder / "home"),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_that_was_never_trained_has_a_status_and_an_empty_history(elsewhere: Path) -> None:
    status = json.loads(retrain(elsewhere, "status", "flight_delay", "--json").stdout)
    assert status["model"] == "flight_delay"
    assert status["production"] is status["last_decision"] is None
    assert status["reason"] == "0 of 74 partitions needed have landed"
    assert json.loads(retrain(elsewhere, "history", "arrival_delay", "--json").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "nope"), "no model named 'nope'; there are arrival_delay, flight_delay"),
        (("status", "../../etc"), "no model named '../../etc'"),
        (("backfill", "nope", "--from", "a", "--to", "b"), "no dataset or model named 'nope'"),
        (
            ("backfill", "flights", "--from", "2013-02-30", "--to", "2013-03-01"),
            "'2013-02-30' is no partition: they run from 2013-01-01 to 2013-12-31",
        ),
        (
            ("backfill", "flights", "--from", "2013-03-02", "--to", "2013-03-01"),
            "ends at 2013-03-01, before it starts",
        ),
        (
            ("backfill", "flights", "--from", "2013-03-01", "--to", "2013-03-02"),
            "nothing for 2013-03-01 to 2013-03-02",
        ),
        (
            ("rollback", "flight_delay", "--reason", "complaints"),
            "no earlier version to roll back to",
        ),
        (("quarantine", "nope"), "no dataset named 'nope'; there are flights, planes, weather"),
        (
            ("quarantine", "flights", "--partition", "2013-1-5"),
            "'2013-1-5' is no partition of flights: write it as 2013-01-01",
        ),
        (("quarantine", "flights", "--reason", "ranges"), "no rule is named 'ranges': did you"),
        (("quarantine", "flights", "--csv", "no/such.csv"), "No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    elsewhere: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = retrain(elsewhere, *arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in done.stderr


def test_a_backfill_that_refuses_a_file_fails_and_names_it(elsewhere: Path) -> None:
    landed = elsewhere / "data" / "landing" / "weather" / "2013-06-01.csv"
    landed.parent.mkdir(parents=True, exist_ok=True)
    landed.write_text("<html>404</html>\n", encoding="utf-8")
    done = retrain(elsewhere, "backfill", "weather", "--from", "2013-06-01", "--to", "2013-06-01")
    assert done.returncode == 1
    for said in ("weather/dataset schema_matches", "file weather/2013-06-01.csv", "it lacks"):
        assert said in done.stderr


def test_a_backfill_ingests_a_range_in_one_run(elsewhere: Path) -> None:
    from retrain_assets.demo.flights import Flights

    Flights.load().drop(elsewhere / "data" / "landing", ["2013-05-01", "2013-05-02"])
    done = retrain(
        elsewhere, "backfill", "weather", "--from", "2013-05-01", "--to", "2013-05-02", "--json"
    )
    found = json.loads(done.stdout)
    assert (found["name"], found["partitions"]) == ("weather", 2)
    assert found["run_id"]
    assert not (elsewhere / "data" / "dagster").exists()


def test_what_was_refused_is_counted_listed_and_written_where_the_command_was_given(
    elsewhere: Path,
) -> None:
    landed = elsewhere / "data" / "landing" / "weather" / "2013-06-02.csv"
    landed.parent.mkdir(parents=True, exist_ok=True)
    landed.write_text("=<html>\n", encoding="utf-8")
    retrain(elsewhere, "backfill", "weather", "--from", "2013-06-02", "--to", "2013-06-02")
    day = ("weather", "--partition", "2013-06-02")
    listed = retrain(elsewhere, "quarantine", *day, "--csv", "refused.csv")
    assert listed.stdout.splitlines()[0] == "weather: 1 rows or files refused"
    assert "weather/2013-06-02.csv" in listed.stdout
    assert "2013-06-02,weather/2013-06-02.csv" in (elsewhere / "refused.csv").read_text("utf-8")
    again = retrain(elsewhere, "quarantine", *day, "--csv", "refused.csv")
    assert (again.returncode, again.stdout) == (1, "")
    assert "refused.csv: File exists" in again.stderr
    counted = json.loads(
        retrain(elsewhere, "quarantine", "weather", "--reason", "file", "--json").stdout
    )
    assert (counted["dataset"], counted["reason"]) == ("weather", "file")
    here = [row for row in counted["shown"] if row["partition"] == "2013-06-02"]
    assert [(row["reason"], row["records"]) for row in here] == [("file", 1)]


def test_a_mistake_in_the_yaml_is_told_by_line_and_field_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = new_project(tmp_path, monkeypatch)
    project.write("type: retrain_assets.RetrainedModel\nattributes: {nam: x}\n")
    theirs = partial(definitions.component_tree, project.package)
    monkeypatch.setattr(definitions, "component_tree", theirs)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["status", "flight_delay"])
    assert done.exit_code == 1
    lines = done.output.removeprefix("Error: ").splitlines()
    assert lines[-1] == "mine/defs.yaml: line 2: attributes.nam: unknown field: did you mean name?"
    assert all(line.startswith("mine/defs.yaml: line 2: ") for line in lines)
