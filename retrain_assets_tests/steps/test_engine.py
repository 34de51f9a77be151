"""Workers of Dask compute what this process computes, and a cluster that could not is refused.

`system/test_engine.py` kills workers and schedulers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import skops.io
from click.testing import CliRunner
from distributed import LocalCluster
from polars.testing import assert_frame_equal

from retrain_assets.cli import main
from retrain_assets.domain.model.families.family import TrainingError
from retrain_assets.specs.model import EstimatorSpec, PolicySpec, TriggersSpec, WindowsSpec
from retrain_assets.steps.data import intake
from retrain_assets.steps.data.ingest import _judge_all, ingest
from retrain_assets.steps.decision import promote, train
from retrain_assets.steps.features import rows as rows_module
from retrain_assets.steps.features.build import build_features, build_profiles
from retrain_assets.steps.monitoring.monitor import monitor
from retrain_assets.steps.monitoring.predict import predict_partitions, score_partitions
from retrain_assets.steps.replay import Replay
from retrain_assets.steps.state import ModelState
from retrain_assets.stores import engine as engine_module
from retrain_assets.stores.engine import (
    AHEAD,
    DaskEngine,
    Engine,
    EngineError,
    EngineSettingError,
    compute,
    describe_process,
    engine_from,
    explain_difference,
)
from retrain_assets.stores.memory import MemoryRegistry
from retrain_assets.stores.registry.model_file import content_digest
from retrain_assets.stores.storage import Storage
from retrain_assets.stores.tables.data_files import Spill
from retrain_assets_tests.world import key, new_world

DAYS = [key(number) for number in range(20)]
TABLES = ("features", "profile", "predictions", "prediction_profile", "performance")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> ModelState:
    """A model with a version in production, in memory since MLflow takes seconds."""
    windows = {"train": 10, "holdout": 6, "current": 3, "also": [6]}
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("lived"), instance, windows=windows)
    world.land(*range(20))
    ingest(world.storage, world.dataset, DAYS, "run")
    state = replace(world.state, registry=MemoryRegistry("churn", {}))
    build_all(state, DAYS[:17])
    monitor(state, DAYS[:17], "run")
    train.train_candidates(state, train.plan(state, None, []), lambda: "run")
    promote.decide_candidate(state, "run", lambda: "run")
    build_all(state, DAYS)
    monitor(state, DAYS, "run")
    return state


@pytest.fixture(scope="module")
def engine(state: ModelState) -> Iterator[Engine]:
    options = {"processes": True, "host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(n_workers=2, threads_per_worker=1, silence_logs=50, **options) as cluster:
        setting = cluster.scheduler_address.replace("tcp", "dask")
        yield engine_from(setting, Path(state.tables.root).parent)


def build_all(state: ModelState, days: Sequence[str]) -> None:
    for step in (build_features, build_profiles, predict_partitions):
        step(state, days, "run")


def read_all(state: ModelState) -> dict[str, pl.DataFrame]:
    """Read the tables; the order of rows in a table has no meaning."""
    tables = {name: state.tables.scan(state.table(name)).collect() for name in TABLES}
    order = ("_landing_partition", "_key", "column", "role")
    return {
        name: table.sort([column for column in order if column in table.columns])
        for name, table in tables.items()
    }


def test_workers_store_what_this_process_stores(
    state: ModelState, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "BATCH_VALUES", 2500)
    apart = replace(state, engine=engine)
    here = read_all(state)
    build_all(apart, DAYS)
    there = read_all(apart)
    for name in TABLES:
        assert here[name].height > 0
        assert_frame_equal(here[name], there[name])
    both = (score_partitions(item, DAYS, None) for item in (state, apart))
    assert_frame_equal(*(pl.concat(scored for _, scored in parts) for parts in both))


def test_files_that_workers_read_give_the_same_rows(
    state: ModelState, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "BATCH_BYTES", 40_000)
    root, parts, frames = Path(state.tables.root).parent, [], []
    for computes in (state.engine, engine):
        read = intake.Intake(Storage(root, engine=computes), state.dataset)
        with monkeypatch.context() as patch, Spill() as spill:
            if computes is engine:
                patch.setattr(intake.Intake, "read_share", pytest.fail)  # in this process
            parts.append(list(_judge_all(read, {*DAYS}, spill)))
            frames.append(pl.concat(spill))
    assert_frame_equal(*frames)
    for here, there in zip(*parts, strict=True):
        assert_frame_equal(here.counts, there.counts)
        assert_frame_equal(here.judgement.files, there.judgement.files)
        assert (here.stamps, here.extra) == (there.stamps, there.extra)
    assert len(parts[0]) > 2


def test_candidates_that_workers_fitted_are_those_of_this_process(
    state: ModelState, engine: Engine
) -> None:
    made = []
    for computes in (state.engine, engine):
        fresh = replace(state, engine=computes, registry=MemoryRegistry("churn", {}))
        train.train_candidates(fresh, train.plan(fresh, None, []), lambda: "run")
        fits = fresh.registry.shared.values()
        made.append([(content_digest(skops.io.dumps(fit)), item.tags) for item, fit in fits])
    assert len(made[0]) == 2
    assert made[0] == made[1]


def test_folds_of_a_search_are_judged_alike_by_workers(state: ModelState, engine: Engine) -> None:
    search = {"params": {"C": {"low": 0.01, "high": 10.0, "log": True}}, "budget": 4, "folds": 3}
    estimator = EstimatorSpec(**state.spec.estimator.model_dump() | {"search": search})
    spec = state.spec.model_copy(update={"estimator": estimator})
    here, there = (
        train.fit_model(replace(state, spec=spec, engine=item), DAYS[:12])
        for item in (state.engine, engine)
    )
    assert content_digest(skops.io.dumps(here.pipeline)) == content_digest(
        skops.io.dumps(there.pipeline)
    )
    assert here.search is not None
    assert_frame_equal(here.search, there.search)


def test_workers_make_the_fits_of_a_replay_once(
    state: ModelState, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = [
        *(PolicySpec(name=f"every: {n}", every=n) for n in (1, 2)),
        PolicySpec(name="now"),
        PolicySpec(name="often", triggers=TriggersSpec(new_partitions=1)),
        PolicySpec(name="short", windows=WindowsSpec(train=8, holdout=6, current=3)),
    ]
    here, there = Replay(state), Replay(replace(state, engine=engine))
    results = [here.play(policy) for policy in policies]
    assert [result.fits for result in results[:2]] == [5, 3]
    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", pytest.fail)  # in this process, and not in workers
        there._fit_ahead(policies)
    mapped = list[int]()
    fit_all = there._fit
    monkeypatch.setattr(there, "_fit", lambda plans: (mapped.append(len(plans)), fit_all(plans)))
    assert there.play_all(policies) == results
    names = [{name for name in replay.memo if name[0] == train.FIT} for replay in (here, there)]
    assert names[0] == names[1]
    assert max(mapped[1:]) > 1
    monkeypatch.setattr(there, "_follow_triggers", break_off)
    with pytest.raises(TrainingError, match="broken"):
        there.play_all(policies[2:])


def break_off(*_: Any) -> Any:
    raise TrainingError("broken")


def test_items_are_in_order_bounded_in_flight_and_raise_in_their_place(engine: Engine) -> None:
    taken = iter(range(40))
    values = engine.map(abs, taken)
    assert next(values) == 0
    assert next(taken) <= 2 * AHEAD + 1
    assert next(values) == 1
    values = engine.map(int, ["1", "x", "3"])
    assert next(values) == 1
    with pytest.raises(ValueError, match="invalid literal for int"):
        next(values)
    assert [*engine.map(int, ["7"])] == [7]


def test_no_item_is_left_out_where_no_worker_takes_work_at_first(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module._Cluster, "list_workers", lambda _: [])
    assert [*engine.map(abs, range(6))] == [*range(6)]


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("dask://10.0.0.7:8786", "use tls://10.0.0.7:8786"),
        ("tls://10.0.0.7:8786", "set DASK_DISTRIBUTED__COMM__TLS__CA_FILE"),
        ("ray://localhost:8786", "use dask://127.0.0.1:8786"),
        ("dask://localhost", "use dask://127.0.0.1:8786"),
        ("spark://ann:s3cret@localhost:8786", "leave them out"),
    ],
)
def test_a_setting_that_is_unsafe_or_unknown_is_refused_in_one_line(
    setting: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("RETRAIN_ENGINE", "RETRAIN_STORAGE", "DAGSTER_HOME")
    env = dict(zip(names, (setting, str(tmp_path), str(tmp_path)), strict=True))
    result = CliRunner(env=env).invoke(main, ["status"])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert reason in result.output
    assert "s3cret" not in result.output


def test_a_worker_that_is_unlike_this_process_is_refused_by_name(
    engine: DaskEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = describe_process()
    assert explain_difference(facts) == ""
    changed = tuple((name, "0.1" if name == "polars" else value) for name, value in facts)
    assert explain_difference(changed).startswith("polars is ")
    unseen = explain_difference(facts, f"{tmp_path}/elsewhere", "marker")
    assert f"does not see the storage root {tmp_path}/elsewhere" in unseen
    with pytest.raises(EngineSettingError, match="joined later cannot be used: it does not see"):
        compute(facts, f"{tmp_path}/elsewhere", "marker", "call", int, "1")
    monkeypatch.setattr(engine_module, "describe_process", lambda: changed)
    with pytest.raises(EngineSettingError, match=r"scheduler cannot be used: polars is .* there"):
        next(DaskEngine(engine.address, tmp_path).map(int, ["1", "2"]))


def test_without_a_scheduler_the_error_says_what_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "PATIENCE_SECONDS", 2.0)
    engine = engine_from("dask://127.0.0.1:1", tmp_path)
    assert engine.describe() == "by workers of Dask at tcp://127.0.0.1:1"
    with pytest.raises(EngineError, match="no scheduler with workers answers"):
        next(engine.map(int, ["1", "2"]))
