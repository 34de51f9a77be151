"""Models with a YAML each on one dataset: one run monitors all that are ready."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import pytest

from retrain_assets.definitions import build_defs
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.orchestration.messages import _concerns
from retrain_assets.orchestration.resources import StorageResource
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


def test_one_run_monitors_all_models_that_are_ready(shared: Shared) -> None:
    assert shared.arrive(0, 1) == [["customers_ingest"], ["churn", "second"], ["sized_monitor"]]
    names = {sensor.name for sensor in shared.daemon.sensors}
    assert {"customers_data_ready", "sized_data_ready"} < names
    assert not {"churn_data_ready", "second_data_ready"} & names
    assert shared.daemon.repository.has_job("churn_monitor")  # for people
    assert [shared.days(name) for name in ("churn", "second", "sized")] == [2, 2, 2]


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
        told = [_concerns(shared.daemon.instance, run, name) for name in ("churn", "second")]
        assert told == [False, True]
        failing.clear()
        assert shared.arrive() == [["second"]]
        failing |= {"churn", "second"}
        assert ["customers_monitor"] in shared.arrive(1)
        failing.remove("churn")  # both failed in one run, so each gets its own
        assert shared.arrive()[0] == ["churn"]
        failing.clear()
        assert shared.arrive() == [["second"]]
    assert (shared.days("churn"), shared.days("second")) == (2, 2)
