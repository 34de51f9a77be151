"""The loop on a small world: files land, sensors ask, models are promoted, refused, rolled back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from retrain_assets.orchestration.partitions import range_tags
from retrain_assets.steps.data.ingest import ingest
from retrain_assets.steps.decision.promote import DecisionError, reconcile, roll_back
from retrain_assets.steps.features.build import build_features, build_profiles
from retrain_assets.steps.inspect import status
from retrain_assets.steps.inspect.lineage import lineage
from retrain_assets.steps.monitoring.monitor import monitor
from retrain_assets.steps.monitoring.predict import predict_partitions
from retrain_assets.stores.ledger import LedgerRow, list_reversible
from retrain_assets.stores.registry.registry import ModelRegistry
from retrain_assets_tests.world import World, key, new_world

FIRST, TURNED = 16, 20  # days the first model needs, and days of new laws
SLOPES = (1.0, 1.0, -2.0, -2.0, -2.0)  # of each four of these


def ledger(world: World) -> tuple[LedgerRow, ...]:
    return world.state.ledger.read().rows


def registry(world: World) -> ModelRegistry:
    return world.storage.registry("churn")


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with a first model in production and three days after it. Tests only read it."""
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("settled"), instance)
        world.land(*range(FIRST))
        world.settle()
        world.land(*range(FIRST, FIRST + 3))
        world.settle()
        yield world


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose law weakened and turned around, until the second model was promoted."""
    gate = {"metric": "log_loss", "min_blocks": 4, "min_gain": 0.15}
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("turned"), instance, gate=gate)
        world.land(*range(FIRST))
        world.settle()
        for start, slope in zip(range(FIRST, FIRST + TURNED, 4), SLOPES, strict=True):
            world.land(*range(start, start + 4), slope=slope)
            world.settle()
        yield world


def test_the_first_model_is_promoted_once_there_is_enough_history(settled: World) -> None:
    (row,) = ledger(settled)
    assert (row.action, row.causes, row.as_of) == ("promote", ("no_production",), key(15))
    assert row.data_range == (key(6), key(15))
    assert registry(settled).alias("production") == row.version


def test_the_promoted_version_is_a_refit_through_the_as_of_of_the_gated_one(settled: World) -> None:
    (row,) = ledger(settled)
    gated, refit = (registry(settled).version(n) for n in (row.candidate or 0, row.version))
    assert refit.tags["parent"] == str(gated.version)
    assert (gated.tags["train_from"], gated.tags["train_to"]) == (key(0), key(9))
    assert (refit.tags["train_from"], refit.tags["train_to"]) == (key(6), key(15))


def test_a_version_records_what_it_is_a_function_of(settled: World) -> None:
    tags = registry(settled).version(ledger(settled)[0].version).tags
    assert tags["dataset_version"] == tags["customers_version"] == "0"
    names = {"spec_digest", "code_digest", "lock_digest", "seed", "threads", "features_version"}
    assert all(tags[name] for name in names)


def test_settled_sensors_ask_for_nothing_and_say_why(settled: World) -> None:
    assert settled.settle() == []
    assert status.status(settled.state)["reason"] == "no cause has fired"


def test_every_run_was_asked_for_by_a_sensor(settled: World) -> None:
    runs = settled.instance.get_runs()
    assert {run.tags["dagster/sensor_name"] for run in runs} == {
        "customers_new_data",
        "churn_data_ready",
        "churn_retrain_wanted",
    }
    assert all(run.is_success for run in runs)


def test_predictions_stand_beside_their_labels_and_are_out_of_sample(settled: World) -> None:
    rows = settled.storage.tables.scan("churn/predictions").collect()
    assert set(rows["_landing_partition"]) == {key(n) for n in range(FIRST, FIRST + 3)}
    assert not rows["in_sample"].any()
    positives, negatives = (rows.filter(label=value)["prediction"].mean() for value in (1.0, 0.0))
    assert positives > negatives + 0.2  # type: ignore[operator]


def test_monitoring_reads_no_rows(settled: World, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(settled.root / "delta", root / "delta")
    copy = World(root, settled.instance, settled.dataset, settled.spec)
    before = monitored(copy)
    for table in ("customers/dataset", "churn/features", "churn/predictions"):
        for data in (root / "delta" / table).glob("*.parquet"):
            data.unlink()
    monitor(copy.state, [key(n) for n in range(FIRST + 3)], "run")
    assert_frame_equal(monitored(copy), before)


def monitored(world: World) -> pl.DataFrame:
    rows = world.storage.tables.scan("churn/monitoring").collect()
    return rows.sort("_landing_partition", "role", "measure", "column")


def test_a_fall_of_performance_leads_to_a_better_model(turned: World) -> None:
    rows = ledger(turned)
    assert rows[0].causes == ("no_production",)
    assert all("performance" in row.causes for row in rows[1:])
    actions = [row.action for row in rows]
    assert actions.count("promote") == 2
    assert set(actions[1:]) & {"hold", "reject"}


def test_each_partition_keeps_the_version_it_was_served_by(turned: World) -> None:
    served = turned.storage.tables.scan("churn/predictions").select(
        "_landing_partition", "model_version"
    )
    first, second = (row for row in ledger(turned) if row.action == "promote")
    for partition, version in served.unique().collect().iter_rows():
        assert version == (first if partition <= second.seen_through else second).version
    before = turned.storage.tables.scan("churn/predictions").collect().sort("_key")
    predict_partitions(turned.state, [key(n) for n in range(FIRST, FIRST + TURNED)], "again")
    after = turned.storage.tables.scan("churn/predictions").collect().sort("_key")
    assert_frame_equal(after, before)


def test_what_the_gate_refused_cannot_be_promoted_by_hand(turned: World) -> None:
    refused = ledger(turned)
    registry(turned).set_alias(
        "candidate", next(r.candidate for r in refused if r.action != "promote")
    )
    job = turned.definitions.resolve_job_def("churn_retrain")
    for selection in (["churn/production_model"], ["churn/evaluation", "churn/production_model"]):
        keys = [dg.AssetKey.from_user_string(name) for name in selection]
        done = job.execute_in_process(instance=turned.instance, asset_selection=keys)
        assert done.success
    assert ledger(turned) == refused


def test_a_candidate_made_again_is_the_same_version(settled: World) -> None:
    count = len(registry(settled).versions())
    job = settled.definitions.resolve_job_def("churn_retrain")
    done = job.execute_in_process(
        instance=settled.instance,
        tags={"retrain/as_of": key(15), "retrain/causes": "no_production"},
        asset_selection=[dg.AssetKey(["churn", "candidate_model"])],
    )
    assert done.success
    assert [found.passed for found in done.get_asset_check_evaluations()] == [True]
    assert len(registry(settled).versions()) == count


def test_rolling_back_and_an_alias_moved_by_hand(turned: World) -> None:
    first, second = (row for row in ledger(turned) if row.action == "promote")
    job = turned.definitions.resolve_job_def("churn_rollback")
    config = {"ops": {"churn_rollback_op": {"config": {"reason": "complaints", "by": "on call"}}}}
    assert job.execute_in_process(instance=turned.instance, run_config=config).success
    row = ledger(turned)[-1]
    assert (row.action, row.version, row.previous) == ("rollback", first.version, second.version)
    assert (row.reason, row.by) == ("complaints", "on call")
    assert registry(turned).alias("production") == first.version

    registry(turned).set_alias("production", second.version)
    assert reconcile(registry(turned), turned.state.ledger.read())
    assert registry(turned).alias("production") == first.version
    assert not reconcile(registry(turned), turned.state.ledger.read())

    with pytest.raises(DecisionError, match=f"earlier ones are {second.version}"):
        roll_back(turned.state, 99, "typo", "on call")


def test_what_was_rolled_back_is_not_promoted_again_on_the_same_data(
    turned: World, tmp_path: Path
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        shutil.copytree(turned.root, tmp_path / "copy")
        world = new_world(tmp_path / "copy", instance)
        (promoted,) = (row for row in ledger(world)[1:] if row.action == "promote")
        if ledger(world)[-1].action != "rollback":
            roll_back(world.state, None, "complaints", "on call")
        rows = ledger(world)
        job = world.definitions.resolve_job_def("churn_retrain")
        assert job.execute_in_process(
            instance=instance, tags={"retrain/as_of": promoted.as_of}
        ).success
        assert ledger(world) == rows
        assert registry(world).alias("production") == rows[0].version


def test_a_version_that_does_not_answer_in_a_clean_process_is_not_rolled_back_to(
    turned: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ledger(turned)
    now = turned.state.ledger.read().production
    other = next(version for version in list_reversible(rows) if now and version != now.version)
    read = ModelRegistry.file

    def flipped(self: ModelRegistry, uri: str, name: str) -> bytes:
        return read(self, uri, name) + (b"x" if name == "model.skops" else b"")

    monkeypatch.setattr(ModelRegistry, "file", flipped)
    with pytest.raises(DecisionError, match=f"version {other} does not answer.*sha256"):
        roll_back(turned.state, other, "complaints", "on call")
    assert ledger(turned) == rows


def test_a_prediction_leads_to_its_files_model_code_and_decision(turned: World) -> None:
    served = turned.storage.tables.scan("churn/predictions").collect()
    row = served.filter(_landing_partition=key(FIRST)).row(0, named=True)
    found = lineage(turned.state, key(FIRST), row["_key"])
    first = ledger(turned)[0]
    assert found["prediction"] == row
    assert row["label"] in (0, 1)
    assert list(found["files"]) == [f"customers/{key(FIRST)}.csv"]
    assert (found["model"]["version"], found["model"]["sha256"]) == (first.version, first.sha256)
    assert found["model"]["spec_digest"] == first.recipe
    assert found["datasets"] == dict(first.datasets)
    assert (found["ledger"]["number"], found["ledger"]["reason"]) == (0, first.reason)
    assert found["ledger"]["sha256"] == turned.state.ledger.read().digests[0]
    with pytest.raises(LookupError, match=r"no prediction 'x' in partition .* such as '2020-"):
        lineage(turned.state, key(FIRST), "x")
    with pytest.raises(LookupError, match="it has none, since no version was in production when"):
        lineage(turned.state, key(0), "x")
    with pytest.raises(LookupError, match="it has none, since customers has no accepted rows of"):
        lineage(turned.state, "1999-01-01", "x")


def test_a_file_that_could_not_be_ingested_is_asked_for_again_and_then_left(world: World) -> None:
    world.land(0)
    (world.root / "delta").write_text("a file where a folder should be", encoding="utf-8")
    for _ in range(3):
        with pytest.raises(RuntimeError, match="customers_ingest failed"):
            world.settle()
    assert world.settle() == []
    assert len(world.instance.get_runs()) == 3


def test_a_corrected_day_is_rebuilt_with_the_windows_that_hold_it(
    settled: World, tmp_path: Path
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path, instance)
        world.land(*range(8))
        world.settle()
        world.land(2, shift=3.0)
        runs = world.settle()
        assert [run.job for run in runs] == ["customers_ingest", "churn_monitor"]
        tags = instance.get_run_by_id(runs[1].run_id).tags  # type: ignore[union-attr]
        assert {name: tags[name] for name in range_tags("a", "b")} == range_tags(key(2), key(4))
        features = world.storage.tables.scan("churn/features").collect()
        assert features.filter(_landing_partition=key(2))["x"].mean() > 2  # type: ignore[operator]
        assert features.height == 8 * 120


def test_runs_of_one_partition_each_newest_first_come_to_what_a_range_comes_to(
    settled: World, tmp_path: Path
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        shutil.copytree(settled.root, tmp_path / "copy")
        world = new_world(tmp_path / "copy", instance)
        new = range(FIRST, FIRST + 3)
        world.land(*new)
        for job in ("customers_ingest", "churn_monitor"):
            for number in reversed(new):
                found = world.definitions.resolve_job_def(job)
                assert found.execute_in_process(
                    instance=instance, partition_key=key(number)
                ).success
        monitoring = world.storage.tables.scan("churn/monitoring").sort(pl.all()).collect()
        assert world.settle() == []
        tags = range_tags(key(new[0]), key(new[-1]))
        world.daemon.execute("churn_monitor", tags, {})
        again = world.storage.tables.scan("churn/monitoring").sort(pl.all()).collect()
        assert_frame_equal(monitoring, again)
        assert again.filter(pl.col("window_from") == key(new[0]), measure="log_loss").height > 0


def test_drift_without_harm_is_seen_by_its_check(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path, instance)
        world.land(*range(FIRST))
        world.settle()
        world.land(*range(FIRST, FIRST + 3), shift=2.0)
        run = world.settle()[1]
        events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        evaluations = [entry.get_dagster_event().asset_check_evaluation_data for entry in events]
        found = {evaluation.check_name: evaluation.passed for evaluation in evaluations}
        assert found["no_data_drift"] is False
        assert found["no_target_drift"] is True


def test_changed_features_are_rebuilt_retrained_and_promoted_without_waiting(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance)
    world.land(*range(FIRST))
    world.settle()
    world.spec = new_world(
        tmp_path, instance, features={"sql": "SELECT x, x * x AS square FROM rows"}
    ).spec
    waits = f"0 of 16 partitions needed are ready; {FIRST} more have landed: "
    assert status.status(world.state)["reason"].startswith(waits)
    assert [run.job for run in world.settle()] == ["churn_monitor", "churn_retrain"]
    first, second = ledger(world)
    assert (second.action, second.causes) == ("promote", ("spec_change",))
    assert "production needs plan, which the YAML no longer makes" in second.reason
    assert registry(world).load(second.version, second.sha256)["encode"].columns_ == ["x", "square"]
    assert second.recipe != first.recipe
    assert world.settle() == []
    world.land(FIRST)
    world.settle()
    assert world.storage.tables.scan("churn/predictions").collect().height == 120


OWN_FEATURES = "def make(rows):\n    return rows.select('x', 'plan')\n"
OWN_ESTIMATOR = """
from sklearn.linear_model import LogisticRegression

def make():
    return LogisticRegression(C=1.0)
"""


def test_changed_code_of_the_user_is_a_changed_spec(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    features_file, estimator_file = tmp_path / "own_features.py", tmp_path / "own_estimator.py"
    features_file.write_text(OWN_FEATURES, encoding="utf-8")
    estimator_file.write_text(OWN_ESTIMATOR, encoding="utf-8")
    world = new_world(
        tmp_path,
        instance,
        features={"python": "own_features:make"},
        estimator={"python": "own_estimator:make"},
    )
    world.land(*range(FIRST))
    monkeypatch.setattr("retrain_assets.stores.tables.tables.SECOND", 0)
    daemon = world.daemon  # one code server for all of it, which passes over what has not changed
    list(daemon.settle())
    estimator_file.write_text("# A comment." + OWN_ESTIMATOR, encoding="utf-8")
    assert list(daemon.settle()) == []
    estimator_file.write_text(OWN_ESTIMATOR.replace("1.0", "0.5"), encoding="utf-8")
    assert [run.job for run in daemon.settle()] == ["churn_retrain"]
    features_file.write_text(OWN_FEATURES.replace("rows.select", "rows[:].select"), "utf-8")
    assert [run.job for run in daemon.settle()] == ["churn_monitor", "churn_retrain"]
    first, second, third = ledger(world)
    assert first.causes == ("no_production",)
    assert second.causes == third.causes == ("spec_change",)
    said = f"the user's code has changed since version {first.version} was trained"
    assert second.because == said


def test_the_holdout_holds_no_partition_that_either_model_was_trained_on(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance)
    world.land(*range(FIRST))
    world.settle()
    assert ledger(world)[0].data_range[1] == key(15)
    holdouts = []
    for last in (18, 20):
        world.land(*range(FIRST, last + 1))
        world.settle()
        job = world.definitions.resolve_job_def("churn_retrain")
        tags = {"retrain/as_of": key(last)}
        assert job.execute_in_process(instance=instance, tags=tags).success
        evaluation = world.storage.tables.scan("churn/evaluation").collect()
        row = evaluation.filter(as_of=key(last)).row(0, named=True)
        holdouts.append((row["holdout_from"], row["holdout_to"]))
    assert holdouts == [(key(16), key(18)), (key(16), key(20))]
    few, enough = ledger(world)[1:]
    assert few.action == "hold"
    assert few.reason.startswith("3 holdout blocks that neither model was trained on")
    assert "on 5 blocks" in enough.reason


def test_a_correction_that_lands_while_a_run_is_under_way_is_built_afterwards(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = new_world(tmp_path, instance)
    world.land(0, 1)
    ingest(world.storage, world.dataset, [key(0), key(1)], "run")
    build_features(world.state, [key(0), key(1)], "run")
    world.land(1, shift=3.0)
    ingest(world.storage, world.dataset, [key(1)], "run")
    for step in (build_profiles, monitor):
        step(world.state, [key(0), key(1)], "run")
    assert [run.job for run in world.settle()] == ["churn_monitor"]
    rebuilt = world.storage.tables.scan("churn/features").collect()
    assert rebuilt.filter(_landing_partition=key(1))["x"].mean() > 2  # type: ignore[operator]
    assert world.settle() == []


def test_nothing_is_decided_on_features_that_are_to_be_built_again(world: World) -> None:
    world.land(*range(FIRST))
    world.settle()
    changed = new_world(world.root, world.instance, features={"sql": "SELECT x FROM rows"})
    assert world.state.mature() != ()
    assert changed.state.mature() == ()
    assert [done.job for done in changed.settle()][:2] == ["churn_monitor", "churn_retrain"]
    assert len(changed.state.mature()) == FIRST
