"""The command line from another folder: exit code 0 and JSON, or not 0 and one line of why."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner, Result

from retrain_assets.cli import inspect, main
from retrain_assets.steps.upkeep import lifecycle
from retrain_assets.stores.storage import storage_from
from retrain_assets_tests.projects import Project, document, new_project, write_project, yaml_of
from retrain_assets_tests.world import DATASET, World, customers

ROOT = Path(__file__).parents[1]


PROJECT = """
directory_type = "project"
[project]
root_module = "retrain_assets"
code_location_target_module = "retrain_assets.definitions"
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the demo's definitions, with storage and Dagster state of its own."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "dg.toml").write_text(PROJECT, encoding="utf-8")
    return folder


def settings(folder: Path) -> dict[str, str]:
    (folder / "home").mkdir(exist_ok=True)
    return {"RETRAIN_STORAGE": str(folder / "data"), "DAGSTER_HOME": str(folder / "home")}


def retrain(folder: Path, *arguments: str) -> Result:
    """Run a command in this process, since a new one takes seconds to import everything."""
    with chdir(folder):
        return CliRunner().invoke(main, arguments, env=settings(folder))


def test_a_model_that_was_never_trained_has_a_status_and_an_empty_history(elsewhere: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "retrain_assets.cli", "status", "flight_delay", "--json"],
        cwd=elsewhere,
        env={**os.environ, **settings(elsewhere)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    status = json.loads(process.stdout)
    assert status["model"] == "flight_delay"
    assert status["production"] is status["last_decision"] is None
    assert status["reason"] == "0 of 67 partitions needed have landed"
    every = retrain(elsewhere, "status").stdout.splitlines()
    assert every[::6] == [f"{m}: nothing in production" for m in ("arrival_delay", "flight_delay")]
    assert every[1::6] == ["  how it does  no performance has been measured yet"] * 2
    assert every[2::6] == [
        "  what moved   no drift is watched, since `triggers` of the YAML names none",
        "  what moved   data_drift, prediction_drift are not measured yet",
    ]
    assert every[3::6] == ["  waiting      nothing waits for a person"] * 2
    for line, now, needed in zip(every[4::6], every[5::6], (74, 67), strict=True):
        assert line.startswith(f"  next         a decision is expected after {needed} more part")
        assert now == f"{'':15}now: 0 of {needed} partitions needed have landed"
    details = retrain(elsewhere, "status", "flight_delay", "-v").stdout.splitlines()
    assert details == [
        *every[6:],
        "retrain now: no, 0 of 67 partitions needed have landed",
        "  items of steps are computed in this process",
    ]
    page = retrain(elsewhere, "report", "flight_delay", "--out", "page.html", "--json")
    assert json.loads(page.stdout)["report"] == str(elsewhere / "page.html")
    assert "No data have landed yet." in (elsewhere / "page.html").read_text(encoding="utf-8")
    asked = retrain(elsewhere, "history", "arrival_delay", "--verify", "--csv", "h.csv", "--json")
    assert json.loads(asked.stdout) == []
    assert (elsewhere / "h.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "nope"), "no model named 'nope'; there are arrival_delay, flight_delay"),
        (("status", "../../etc"), "no model named '../../etc'"),
        (("backfill", "nope", "--from", "a", "--to", "b"), "no dataset or model named 'nope'"),
        (
            ("backfill", "flights", "--from", "2013-02-30", "--to", "2013-03-01"),
            "'2013-02-30' is not a partition: they run from 2013-01-01 to 2013-12-31",
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
        (
            (
                *("adopt", "flight_delay", "--from", "models:/old/1", "--by", "me"),
                *("--trained-through", "2013-01-31", "--reason", "it runs"),
            ),
            "nothing is monitored through '2013-01-31': backfill some partitions before it",
        ),
        (("quarantine", "nope"), "no dataset named 'nope'; there are flights, planes, weather"),
        (
            ("quarantine", "flights", "--partition", "2013-1-5"),
            "'2013-1-5' is not a partition of flights: write it as 2013-01-01",
        ),
        (("quarantine", "flights", "--reason", "ranges"), "no rule is named 'ranges': did you"),
        (("quarantine", "flights", "--csv", "no/such.csv"), "No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    elsewhere: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = retrain(elsewhere, *arguments)
    assert done.exit_code != 0
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in done.stderr
    assert "Error: " not in lines[0].removeprefix("Error: ")  # the class of the error


def test_a_backfill_that_refuses_a_file_fails_and_names_it(elsewhere: Path) -> None:
    landed = elsewhere / "data" / "landing" / "weather" / "2013-06-01.csv"
    landed.parent.mkdir(parents=True, exist_ok=True)
    landed.write_text("<html>404</html>\n", encoding="utf-8")
    done = retrain(elsewhere, "backfill", "weather", "--from", "2013-06-01", "--to", "2013-06-01")
    assert done.exit_code == 1
    for said in ("weather/dataset schema_matches", "weather/2013-06-01.csv is refused", "it lacks"):
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
    assert listed.stdout.splitlines()[0] == "weather: 0 rows and 1 file refused"
    assert "weather/2013-06-02.csv" in listed.stdout
    assert "2013-06-02,weather/2013-06-02.csv" in (elsewhere / "refused.csv").read_text("utf-8")
    again = retrain(elsewhere, "quarantine", *day, "--csv", "refused.csv")
    assert (again.exit_code, again.stdout) == (1, "")
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
    monkeypatch.chdir(project.package)
    done = CliRunner().invoke(main, ["status", "flight_delay"])
    assert done.exit_code == 1
    lines = done.output.removeprefix("Error: ").splitlines()
    place = f"src/{project.name}/defs/mine/defs.yaml: line 2: "
    assert lines[-1] == f"{place}attributes.nam: unknown field: did you mean name?"
    assert all(line.startswith(place) for line in lines)


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is somebody else's project: days that end, and days without an end."""
    project = new_project(tmp_path, monkeypatch)
    days = {"by": "day", "column": "day", "start": "1970-01-01"}
    endless = document("LandedDataset", DATASET | {"name": "endless", "partition": days})
    project.write(yaml_of({}, {}, endless))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("RETRAIN_STORAGE", str(tmp_path / "data"))
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    monkeypatch.chdir(project.package)
    return tmp_path


DAYS = "is not a partition: they run from 2020-01-01 to 2020-04-30"
HOSTILE = ("../../etc", "a'; DROP", "d' OR '1'='1", "2020-01-05\n2020-01-06", "")
KNOWN = {
    "backfill": "there are churn, customers, endless",
    "status": "there are churn",
    "history": "there are churn",
    "quarantine": "there are customers, endless",
}


def backfill(first: str, last: str, name: str = "customers") -> tuple[str, ...]:
    return "backfill", name, "--from", first, "--to", last


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        *((backfill(bad, "2020-02-01"), f"{bad!r} {DAYS}") for bad in HOSTILE),
        *((backfill("2020-01-01", bad, "churn"), f"{bad!r} {DAYS}") for bad in HOSTILE),
        (backfill("2020-02-30", "2020-03-01"), f"'2020-02-30' {DAYS}"),
        (backfill("2020-1-5", "2020-03-01"), f"'2020-1-5' {DAYS}"),
        (backfill("2019-12-31", "2020-03-01"), f"'2019-12-31' {DAYS}"),
        (backfill("2020-03-01", "2020-05-01"), f"'2020-05-01' {DAYS}"),
        (backfill("2020-01-01", "２０２０-01-05"), f"'２０２０-01-05' {DAYS}"),  # noqa: RUF001
        (backfill("1970-01-01", "2999-01-01", "endless"), "'2999-01-01' is not a partition"),
        (backfill("2020-03-02", "2020-03-01"), "ends at 2020-03-01, before it starts"),
        (
            backfill("1970-01-01", "2020-01-01", "endless"),
            "18,263 partitions of endless: there is",
        ),
        (backfill("2020-01-01", "2020-01-02"), "nothing for 2020-01-01 to 2020-01-02"),
        *(((name, bad), KNOWN[name]) for name in ("status", "history") for bad in HOSTILE),
        *((backfill("a", "b", bad), KNOWN["backfill"]) for bad in HOSTILE),
        *((("quarantine", bad), KNOWN["quarantine"]) for bad in HOSTILE),
        *((("quarantine", "customers", "--partition", bad), repr(bad)) for bad in HOSTILE[:4]),
        (("rollback", "churn", "--to", "1; DROP", "--reason", "r"), "not a valid integer"),
        (("rollback", "churn", "--to", "7", "--reason", "r"), "no earlier version to roll back to"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_names_nothing_is_refused_in_one_line_before_anything_is_touched(
    theirs: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code in (1, 2)
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.stderr.rstrip().endswith(line)
    assert said in line
    assert {path.name for path in theirs.glob("*")} <= {"src", "dg.toml", "dagster.yaml", "data"}
    assert list(theirs.glob("data/*")) in ([], [theirs / "data" / "dagster"])


def test_many_partitions_are_asked_about_on_a_terminal(theirs: Path) -> None:
    arguments = backfill("1970-01-01", "1973-01-01", "endless")
    asked = "1970-01-01 to 1973-01-01 are 1,097 partitions of endless. Go on? [y/N]: "
    for answer, said in {"n": "Aborted!", "y": "nothing for 1970-01-01 to 1973-01-01"}.items():
        code, shown = on_terminal(theirs, answer, *arguments)
        assert code == 1
        assert asked in shown
        assert said in shown.splitlines()[-1]
    done = CliRunner().invoke(main, [*arguments, "--yes"])
    assert "nothing for 1970-01-01 to 1973-01-01" in done.stderr


def on_terminal(folder: Path, answer: str, *arguments: str) -> tuple[int, str]:
    """What a command shows at a terminal at which a person answers."""
    ours, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "retrain_assets.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder / 'src'}:{ROOT}", "COLUMNS": "200"},
        stdin=its,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        os.write(ours, f"{answer}\n".encode())
        shown, _ = process.communicate(timeout=120)
    os.close(ours)
    os.close(its)
    return process.returncode, shown


def test_a_pause_shows_in_the_plan_until_it_is_ended(elsewhere: Path) -> None:
    why = ("--reason", "audit", "--by", "the team")
    said = retrain(elsewhere, "pause", "flight_delay", "--until", "2013-02-30", *why)
    assert said.exit_code == 1
    assert "'2013-02-30' is not a partition of flights" in said.stderr.splitlines()[-1]
    made = retrain(elsewhere, "pause", "flight_delay", "--until", "2013-06-01", *why, "--json")
    assert json.loads(made.stdout)["until"] == "2013-06-01"
    planned = json.loads(retrain(elsewhere, "plan", "flight_delay", "--json").stdout)
    assert (planned["wanted"], planned["windows"], planned["cost"]["fits"]) == (False, {}, 1)
    ended = retrain(elsewhere, "resume", "flight_delay", "--reason", "done").stdout
    assert ended == "flight_delay: the pause until 2013-06-01 is over\n"
    again = retrain(elsewhere, "resume", "flight_delay", "--reason", "done").stdout
    assert again == "flight_delay: there was no pause\n"


def test_nothing_waits_for_approval_where_nothing_was_decided(elsewhere: Path) -> None:
    said = retrain(elsewhere, "approve", "flight_delay", "1", "--by", "me", "--reason", "good")
    assert said.exit_code == 1
    assert said.stderr.splitlines()[-1].endswith("version 1 does not wait for approval: none does")


def test_a_backup_is_brought_back_with_dagsters_state(elsewhere: Path, tmp_path: Path) -> None:
    why = ("--reason", "so that there is a table")
    assert retrain(elsewhere, "pause", "flight_delay", "--until", "2013-06-01", *why).exit_code == 0
    assert retrain(elsewhere, "resume", "flight_delay", *why).exit_code == 0
    made = json.loads(retrain(elsewhere, "backup", str(tmp_path / "copy"), "--json").stdout)
    assert made["files"] > 0
    refused = retrain(elsewhere, "restore", str(tmp_path / "copy"))
    assert refused.exit_code == 1
    assert "is not empty, it holds" in refused.stderr
    other = tmp_path / "other"
    other.mkdir()
    (other / "dg.toml").write_text(PROJECT, encoding="utf-8")
    done = retrain(other, "restore", str(tmp_path / "copy"), "--json")
    assert json.loads(done.stdout)["tables"] > 0, done.stderr
    history = retrain(other, "history", "flight_delay", "--json")
    assert history.exit_code == 0, history.stderr
    assert json.loads(history.stdout) == []


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project as it was created: its code is in `src`, and nothing names Dagster's folder."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("RETRAIN_STORAGE", raising=False)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.chdir(tmp_path)
    project = write_project(tmp_path)
    (project.package / "defs" / "__init__.py").touch()
    return project


def run(*arguments: str) -> Result:
    """Run a command in the current folder, with the environment as it is."""
    with chdir("."):
        return CliRunner().invoke(main, arguments, env=dict.fromkeys(["DAGSTER_HOME"]))


def test_outside_of_a_project_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RETRAIN_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    done = run("pause", "flight_delay", "--until", "2013-06-01", "--reason", "audit")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: no Dagster project in {tmp_path} or above it: ")
    assert list(tmp_path.iterdir()) == []
    assert storage_from({}, tmp_path).root == tmp_path / "data"


def test_outside_of_a_project_no_model_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_STORAGE", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    done = run("status")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: no Dagster project in {tmp_path} or above it: ")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data" / "landing" / "flights").mkdir(parents=True)
    done = run("status")
    assert done.stdout.startswith("arrival_delay: nothing in production")
    assert done.stderr == (
        f"no Dagster project in {tmp_path} or above it: this is the demo, whose data are in "
        f"{tmp_path}/data\n"
        f"DAGSTER_HOME is not set: Dagster records runs in {tmp_path}/data/dagster\n"
    )


@pytest.mark.parametrize("layout", ["src", "flat"])
def test_a_fresh_project_has_no_model_and_says_where_to_write_one(
    fresh: Project, layout: str
) -> None:
    if layout == "flat":
        fresh.package.rename(fresh.root / fresh.name)
    done = run("status")
    assert (done.exit_code, done.stderr, done.exception) == (0, "", None)
    assert done.stdout == "there is no model yet: write one in defs/NAME/defs.yaml\n"
    assert json.loads(run("status", "--json").stdout) == []


def test_a_backfill_counts_refused_rows_and_keeps_dagsters_folders_out_of_the_project(
    fresh: Project,
) -> None:
    fresh.write(yaml_of(None, {"quarantine": {"max_fraction": 0.5}}))
    landing = fresh.root / "data" / "landing" / "customers"
    landing.mkdir(parents=True)
    before = {path.name for path in fresh.root.iterdir()}
    rows = customers(0, rows=4).with_columns(x=pl.Series(["1", "2", "3", "wrong"]))
    rows.write_csv(landing / "2020-01-01.csv")
    done = run("backfill", "customers", "--from", "2020-01-01", "--to", "2020-01-01")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("DAGSTER_HOME is not set") == 1
    assert done.stdout.endswith("; 1 row refused, see `retrain quarantine customers`\n")
    assert {path.name for path in fresh.root.iterdir()} == before
    counted = run("backfill", "customers", "--from", "2020-01-01", "--to", "2020-01-01", "--json")
    assert json.loads(counted.stdout)["refused"] == 1
    assert "DAGSTER_HOME" not in counted.stderr
    reason = "0 of 16 partitions needed are ready; 1 more have landed: the sensor of churn or "
    status = run("status").stdout
    assert f"{reason}`retrain backfill churn` monitors them" in status
    refusals = "customers refused 1 row: see"
    assert refusals in status
    rows.with_columns(x=pl.lit("wrong")).write_csv(landing / "2020-01-02.csv")
    done = run("backfill", "customers", "--from", "2020-01-02", "--to", "2020-01-02")
    assert "customers/2020-01-02.csv is refused: all of its 4 rows were refused" in done.stderr
    assert "None" not in done.stderr
    assert json.loads(run("status", "churn", "--json").stdout)["refused"] == {
        "customers": {"files": 1, "rows": 1}
    }
    assert "customers refused 1 file and 1 row of other files" in run("status", "churn").stdout
    done = run("backfill", "customers", "--refused")
    assert done.exit_code == 1
    assert "1 are refused again, such as customers/2020-01-02" in done.stderr
    customers(1).write_csv(landing / "2020-01-02.csv")
    done = run("backfill", "customers", "--refused")
    assert done.stdout == "customers: 1 refused file read again, none is refused now\n"
    assert "leave out" in run("backfill", "customers", "--refused", "--to", "2020-01-02").stderr


def test_refused_files_that_hold_no_partition_are_read_again_too(fresh: Project) -> None:
    fresh.write(yaml_of(None, {"landing": "customers/*.csv"}))
    landing = fresh.root / "data" / "landing" / "customers"
    landing.mkdir(parents=True)
    (landing / "bad.csv").write_text("x,plan\n1,pro\n")
    lines = run("tick").stdout.splitlines()
    assert any(line.startswith("failed check: customers/dataset") for line in lines)
    assert "customers/bad.csv is refused: it lacks" in "".join(lines)
    assert lines[-1] == "1 run, 0 failures"
    done = run("backfill", "customers", "--refused")
    assert "1 are refused again, such as customers/bad.csv: it lacks" in done.stderr
    (landing / "bad.csv").unlink()
    done = run("backfill", "customers", "--refused")
    assert done.stdout == "customers: 1 refused file read again, none is refused now\n"


def test_a_root_without_the_model_is_not_copied(theirs: Path) -> None:
    done = run("copy", "churn", "--from", str(theirs / "typo"), "--to", str(theirs / "prod"))
    assert done.exit_code == 1
    assert "typo holds nothing of churn: name another with --from" in done.stderr
    assert {"typo", "prod"}.isdisjoint(path.name for path in theirs.iterdir())


def test_a_dataset_without_partitions_is_backfilled_without_a_range(fresh: Project) -> None:
    whole = {"name": "plans", "landing": "plans.csv", "partition": {"by": "none"}}
    fresh.write(yaml_of(None, None, document("LandedDataset", DATASET | whole)))
    landing = fresh.root / "data" / "landing"
    landing.mkdir(parents=True)
    customers(0, rows=3).write_csv(landing / "plans.csv")
    done = run("backfill", "plans", "--from", "2020-01-01", "--to", "2020-01-01")
    assert "the dataset has no partitions: leave out --from and --to" in done.stderr
    done = run("backfill", "plans", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["refused"] == 0
    assert "give --from and --to: the partitions run from" in run("backfill", "customers").stderr


def test_the_table_of_many_models_names_what_failed_of_a_lookup(
    world: World, instance: dg.DagsterInstance
) -> None:
    job = dg.job(name="plans_ingest")(lambda: None)
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.FAILURE)
    joined = replace(world.model, lookups={"plans": world.dataset})
    line = next(inspect._list_by_need([joined, world.model], instance))
    assert line.startswith("the newest run of plans_ingest failed, ")


def test_the_largest_segments_are_listed_and_shown_by_need(theirs: Path) -> None:
    folder = theirs / "data" / "landing" / "customers"
    folder.mkdir(parents=True)
    customers(0).write_csv(folder / "2020-01-01.csv")
    yaml = next(theirs.rglob("defs.yaml"))
    each = {"for_each": {"column": "plan", "top": 2}}
    yaml.write_text(yaml_of(each), encoding="utf-8")
    assert (
        "customers/dataset was never written: materialize it first"
        in run("segments", "churn").output
    )
    run("backfill", "customers", "--from", "2020-01-01", "--to", "2020-01-01")
    (models,) = [json.loads(run("status", "--json").output)]
    assert [value["model"] for value in models] == ["churn"]
    listed = json.loads(run("segments", "churn", "--json").output)
    largest = customers(0)["plan"].value_counts(sort=True)["plan"].head(2).to_list()
    assert [*listed["segments"]] == largest
    assert Path(listed["file"]) == yaml.with_name("segments.json")
    with patch.object(inspect, "MANY", 2):
        table = run("status").output.splitlines()
    assert table[0].split() == ["need", "model", "version", "why"]
    assert [line.split()[:2] for line in table[1:4]] == [
        ["version", name] for name in sorted(["churn", *(f"churn_{value}" for value in largest)])
    ]
    assert table[4] == "3 version"
    with patch.object(lifecycle, "retire") as retire:
        assert run("retire", "churn", "--reason", "sold", "--yes").exit_code == 0
    assert retire.call_args.args[1].segments == sorted(f"churn_{value}" for value in largest)
    yaml.with_name("segments.json").write_text('{"churn": ["a b", "a-b"]}', encoding="utf-8")
    assert "would both be the model 'churn_a_b'" in run("status").output
