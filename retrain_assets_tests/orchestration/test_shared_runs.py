"""Models with a YAML each on one dataset: one run monitors all that are ready."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import pytest
from click.testing import CliRunner

from retrain_assets.cli import main
from retrain_assets.components import spec_check
from retrain_assets.components.components import RetrainedModel
from retrain_assets.definitions import build_defs
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.orchestration.dagster_internals.ticks import failed_runs
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.orchestration.run_requests import concerns
from retrain_assets.steps.features import build
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.storage import Storage
from retrain_assets_tests.projects import Project, document, yaml_of
from retrain_assets_tests.world import MODEL, PlainDaemon, customers, key

SIZED = {"name": "sized", "resources": {"memory": "2Gi"}}
THREE = [document("RetrainedModel", MODEL | part) for part in ({"name": "second"}, SIZED)]


@dataclass
class Shared:
    """A project of three models on one dataset, of which two share runs."""

    daemon: PlainDaemon
    landing: Path
    tables: Any

    def arrive(self, *numbers: int) -> list[list[str]]:
        """Let days land and the sensors settle; return the models of each run, or its error."""
        for number in numbers:
            customers(number).write_csv(self.landing / f"{key(number)}.csv")
        done = [*self.daemon.settle(despite_failures=True)]
        return [run.error.split()[3:4] if run.error else self.models(run.run_id) for run in done]

    def models(self, run_id: str) -> list[str]:
        run = self.daemon.instance.get_run_by_id(run_id)
        assert run is not None
        names = {step.partition("__")[0] for step in run.step_keys_to_execute or ()}
        return sorted(names) if run.job_name == "customers_monitor" else [run.job_name]

    def days(self, name: str) -> int:
        stored = self.tables.scan(f"{name}/monitoring").collect()
        return int(stored[PARTITION].n_unique())


@pytest.fixture
def shared(project: Project, tmp_path: Path, instance: dg.DagsterInstance) -> Shared:
    project.write(yaml_of(None, None, *THREE))
    landing = tmp_path / "data" / "landing" / "customers"
    landing.mkdir(parents=True)
    storage = StorageResource(root=str(tmp_path / "data"))
    daemon = PlainDaemon(build_defs({"storage": storage}, project.package), instance)
    return Shared(daemon, landing, Storage(tmp_path / "data").tables)


def test_a_model_is_trained_though_another_of_its_dataset_fails(
    shared: Shared, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = build.build_features

    def build_some(state: ModelState, keys: Sequence[str], run_id: str) -> build.FeaturesResult:
        if state.spec.name != "churn":
            raise OSError(f"nothing of {state.spec.name} can be stored")
        return real(state, keys, run_id)

    for number in range(16):
        customers(number).write_csv(shared.landing / f"{key(number)}.csv")
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("RETRAIN_STORAGE", str(shared.landing.parents[1]))
    with patch.object(build, "build_features", build_some):
        done = CliRunner().invoke(main, ["train", "churn", "--json"])
    assert done.exit_code == 0, done.output
    assert "churn_monitor: done in run" in done.stderr
    assert (shared.days("churn"), json.loads(done.stdout)["action"]) == (16, "promote")


def test_one_run_monitors_all_models_that_are_ready(shared: Shared) -> None:
    assert shared.arrive(0, 1) == [["customers_ingest"], ["churn", "second"], ["sized_monitor"]]
    names = {sensor.name for sensor in shared.daemon.sensors}
    assert {"customers_data_ready", "sized_data_ready"} < names
    assert not {"churn_data_ready", "second_data_ready"} & names
    assert shared.daemon.repository.has_job("churn_monitor")  # for people
    assert [shared.days(name) for name in ("churn", "second", "sized")] == [2, 2, 2]


def test_each_model_is_checked_a_bounded_number_of_times(project: Project) -> None:
    names = [f"model{number}" for number in range(6)]
    more = [document("RetrainedModel", MODEL | {"name": name}) for name in names]
    project.write(yaml_of(None, None, *more))
    with patch.object(RetrainedModel, "check", autospec=True) as check:
        build_defs(project=project.package).get_repository_def()
    assert check.call_count == 2 * (len(names) + 1), "by the model, and by the dataset"


def test_a_model_that_fails_holds_back_no_other(shared: Shared) -> None:
    real, failing = build.build_features, {"second"}

    def build_some(state: ModelState, keys: Sequence[str], run_id: str) -> build.FeaturesResult:
        if state.spec.name in failing:
            raise OSError(f"nothing of {state.spec.name} can be stored")
        return real(state, keys, run_id)

    with patch.object(build, "build_features", build_some):
        assert ["customers_monitor"] in shared.arrive(0)
        assert (shared.days("churn"), shared.days("sized")) == (1, 1)
        run = shared.daemon.instance.get_runs(dg.RunsFilter(job_name="customers_monitor"))[0]
        told = [concerns(shared.daemon.instance, run, name) for name in ("churn", "second")]
        assert told == [False, True]
        failing.clear()
        assert shared.arrive() == [["second"]]
        failing |= {"churn", "second"}
        assert ["customers_monitor"] in shared.arrive(1)
        failing.remove("churn")  # both failed in one run, so each gets its own
        assert shared.arrive()[0] == ["churn"]
        groups = [("churn", "customers"), ("second", "customers")]  # as `retrain status` asks
        failed = [dict(failed_runs(shared.daemon.instance, names)) for names in groups]
        assert [[*jobs] for jobs in failed] == [[], ["customers_monitor"]]
        assert "nothing of second" in failed[1]["customers_monitor"]
        job = shared.daemon.repository.get_job("second_monitor")  # as `retrain backfill` runs it
        shared.daemon.instance.create_run_for_job(job, status=dg.DagsterRunStatus.SUCCESS)
        assert dict(failed_runs(shared.daemon.instance, groups[1])) == {}
        failing.clear()
        assert shared.arrive() == [["second"]]
    assert (shared.days("churn"), shared.days("second")) == (2, 2)


def test_a_load_checks_each_model_once(project: Project) -> None:
    project.write(yaml_of(None, None, *THREE))
    check = spec_check.find_model_mistakes
    with patch.object(spec_check, "find_model_mistakes", side_effect=check) as checked:
        project.load()
    names = [call.args[0].name for call in checked.call_args_list]
    assert sorted(names) == ["churn", "second", "sized"]
