"""The wheel, in an environment of its own, serves a project that has one YAML and no code of ours.

Dependencies are those installed here, by a path of theirs behind the new environment's own; the
package itself comes from the wheel, and nothing is run in or imported from this repository.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from retrain_assets_tests.projects import Project, document, write_project
from retrain_assets_tests.system.processes import environment
from retrain_assets_tests.world import DATASET, customers

ROOT = Path(__file__).parents[1]
SOURCES = ("retrain_assets", "pyproject.toml", "README.md", "LICENSE")
MONTHS = {f"2020-{month:02}": range(30 * month - 30, 30 * month - 4) for month in range(1, 6)}
LEVEL = "CASE WHEN x > 0.5 THEN 'high' WHEN x < -0.5 THEN 'low' ELSE 'middle' END"
TICKETS = DATASET | {
    "name": "tickets",
    "landing": "tickets/{partition}.csv",
    "partition": {"by": "month", "column": "day", "start": "2020-01", "end": "2020-12"},
}
ROUTE = {
    "name": "route",
    "dataset": "tickets",
    "features": {"sql": "SELECT round(x, 1) AS x, plan FROM rows"},
    "target": {"column": "level", "expression": LEVEL, "kind": "multiclass"},
    "estimator": {"class": "sklearn.linear_model.LogisticRegression"},
    "windows": {"train": 2, "holdout": 2, "current": 1},
    "triggers": {"performance": {"metric": "accuracy", "max_drop": 0.2}},
    "gate": {"metric": "log_loss", "min_blocks": 2},
}


@dataclass(frozen=True)
class Theirs:
    """A project of somebody else's, and the environment it runs in."""

    python: Path
    project: Project

    def run(self, *command: str) -> str:
        """What a module prints that is run in the project's folder."""
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        source = str(self.project.root / "src")
        done = subprocess.run(
            [self.python, *command],
            cwd=self.project.root,
            env=environment(self.project.root, PYTHONPATH=source, PATH=path),
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def retrain(self, *command: str) -> Any:
        """What the command line prints as JSON."""
        return json.loads(self.run("-m", "retrain_assets.cli", *command, "--json"))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that the wheel was installed into."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    pip = (sys.executable, "-m", "pip", "--quiet")
    build = ("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", "dist", ".")
    subprocess.run([*pip, *build], cwd=folder, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    made = folder / "env" / "bin" / "python"
    install = ("--python", str(made), "install", "--no-deps", "--no-index", str(wheel))
    subprocess.run([*pip, *install], check=True, capture_output=True)
    scheme = {"base": str(folder / "env"), "platbase": str(folder / "env")}
    own = Path(sysconfig.get_path("purelib", "venv", scheme))
    (own / "behind.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def theirs(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    """A project of two components, for which nothing has landed."""
    project = write_project(tmp_path_factory.mktemp("theirs"))
    parts = [document("LandedDataset", TICKETS), document("RetrainedModel", ROUTE)]
    project.write(yaml.safe_dump_all(parts, sort_keys=False))
    return Theirs(python, project)


def test_the_package_is_that_of_the_wheel(theirs: Theirs) -> None:
    found = theirs.run("-c", "import retrain_assets; print(retrain_assets.__file__)")
    assert Path(found.strip()).is_relative_to(theirs.python.parents[1])


def test_a_folder_with_only_a_workspace_shows_the_demo(theirs: Theirs, tmp_path: Path) -> None:
    shutil.copy(ROOT / "workspace.yaml", tmp_path)
    folder = Theirs(theirs.python, Project(tmp_path, "none"))
    models = [status["model"] for status in folder.retrain("status")]
    assert models == ["arrival_delay", "flight_delay"]


@pytest.mark.system
def test_the_demo_makes_its_first_models_in_an_empty_folder(theirs: Theirs, tmp_path: Path) -> None:
    settings = environment(tmp_path, PYTHONPATH="")
    del settings["DAGSTER_HOME"]
    command = [theirs.python, "-m", "retrain_assets.cli", "demo", "--to", "2013-03-15", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, check=True)
    demo = json.loads(done.stdout)
    decisions = [(row["model"], row["action"]) for row in demo["decisions"]]
    assert sorted(decisions) == [("arrival_delay", "promote"), ("flight_delay", "promote")]
    assert [file.name for file in tmp_path.iterdir()] == ["data"]
    cards = tmp_path / "data" / "reports" / "cards"
    for row in demo["decisions"]:
        assert (cards / row["model"] / f"card-{row['version']}.html").is_file()


@pytest.mark.system
def test_a_project_with_one_yaml_runs_its_loop(theirs: Theirs) -> None:
    module = ("-m", f"{theirs.project.name}.definitions")
    theirs.run("-m", "dagster", "definitions", "validate", *module)
    landing = theirs.project.root / "data" / "landing" / "tickets"
    landing.mkdir(parents=True)
    for month, days in MONTHS.items():
        pl.concat([customers(day, rows=20) for day in days]).write_csv(landing / f"{month}.csv")
    first, last = min(MONTHS), max(MONTHS)
    for name in ("tickets", "route"):
        done = theirs.retrain("backfill", name, "--from", first, "--to", last)
        assert done["partitions"] == len(MONTHS)
    # One process for all steps, since each new one would import everything again.
    config = theirs.project.root / "run.yaml"
    config.write_text("execution: {config: {in_process: {}}}", encoding="utf-8")
    job = ("-j", "route_retrain", "-c", str(config))
    theirs.run("-m", "dagster", "job", "execute", *module, *job)
    (row,) = theirs.retrain("history", "route")
    assert (row["action"], row["as_of"], row["causes"]) == ("promote", last, ["request"])
    shown = theirs.retrain("status", "route")
    assert shown["production"]["version"] == row["version"]
    assert shown["production"]["metrics"]["accuracy"] > 0.8
