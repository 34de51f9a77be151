"""A version built again from its records is the same bit for bit, or what differs is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import dagster as dg
import pytest

from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.inspect import reproduce as step
from retrain_assets.steps.inspect.reproduce import NotRecordedError, Reproduction, reproduce
from retrain_assets_tests.world import MODEL, World, new_world

ESTIMATOR = {
    "class": "sklearn.ensemble.HistGradientBoostingClassifier",
    "params": {"max_iter": 20, "max_features": 0.5},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with a gated version and its refit, and data corrected since."""
    with dg.DagsterInstance.ephemeral() as instance:
        root = tmp_path_factory.mktemp("served")
        world = new_world(root, instance, estimator=ESTIMATOR, seed=3)
        world.land(*range(16))
        world.settle()
        world.land(7, 9, shift=0.5)
        world.settle()
        yield world


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_is_built_again_bit_for_bit_though_its_data_were_corrected(
    served: World, version: int
) -> None:
    found = reproduce(served.state, version)
    assert found == Reproduction(identical=True, differences=())


def test_another_seed_on_record_makes_another_model_and_it_is_told(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ModelSpec.model_validate_json
    other = lambda text: real(text).model_copy(update={"seed": 4})  # noqa: E731
    monkeypatch.setattr(ModelSpec, "model_validate_json", other)
    found = reproduce(served.state, 1)
    assert not found.identical
    predictions, model = found.differences
    assert predictions.startswith("predictions: ")
    assert model == "model: the fitted objects differ from those that are stored"


def test_rows_that_are_not_those_of_then_are_told(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = served.storage.tables.version("churn/features")
    real = step.sample
    monkeypatch.setattr(step, "sample", lambda *a, **k: real(*a, **(k | {"version": newest})))
    found = reproduce(served.state, 2)
    assert not found.identical
    assert found.differences[0].startswith("training rows: sha256 ")


def test_code_spec_and_packages_that_changed_since_are_named_with_what_would_match(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    were = step.installed()
    monkeypatch.setattr(step, "code_digest", lambda _: "other")
    monkeypatch.setattr(step, "lock_digest", lambda: "other")
    monkeypatch.setattr(step, "installed", lambda: were | {"numpy": "0.1"})
    now = replace(served.state, spec=ModelSpec.model_validate(MODEL | {"seed": 9}))
    found = reproduce(now, 1)
    assert found.identical
    code, spec, packages = found.differences
    commit = served.storage.registry("churn").version(1).tags["checkout"]
    assert code.startswith(f"code: changed since; then: {commit or 'no commit was recorded'}; now")
    assert spec.startswith("YAML: changed since; that of then was used")
    assert packages.startswith(f"packages: numpy {were['numpy']}, now 0.1; all of then: packages")


def test_a_version_without_records_is_refused(served: World) -> None:
    registry = served.storage.registry("churn")
    registry.client.delete_model_version_tag("churn", "1", "rows_sha256")
    with pytest.raises(NotRecordedError, match="version 1: its YAML or the digest of its rows"):
        reproduce(served.state, 1)
