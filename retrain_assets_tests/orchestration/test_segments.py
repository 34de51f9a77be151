"""One YAML with `for_each`: a model a segment, in one pass, beside the pooled model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import pytest

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.situation import Request
from retrain_assets.orchestration import sensors
from retrain_assets.orchestration.checks import failures
from retrain_assets.serving.run import new_service
from retrain_assets.specs.model import PolicySpec
from retrain_assets.steps.decision.policy import record_request
from retrain_assets.steps.features import build
from retrain_assets.steps.inspect import needs
from retrain_assets.steps.replay import SILENT, replay_policies
from retrain_assets.steps.state import ModelState
from retrain_assets.steps.upkeep import lifecycle
from retrain_assets.stores.project import list_parts
from retrain_assets_tests.projects import yaml_of
from retrain_assets_tests.serving.site import listening
from retrain_assets_tests.world import World, key, new_world

FOR_EACH = {"column": "plan", "values": ["basic", "gone"], "min_rows": 100}
NAMES = ["churn", "churn_basic", "churn_gone"]


def states(world: World) -> dict[str, ModelState]:
    return {name: member.state(world.storage) for name, member in world.model.members.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world of three models, of which one has no rows."""
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("segments"), instance, for_each=FOR_EACH)
        world.land(*range(16))
        world.settle()
        yield world


def test_each_segment_has_a_model_of_its_own_rows(world: World) -> None:
    models = states(world)
    assert [*models] == NAMES
    pooled, basic, gone = (
        state.tables.scan(state.table("features")).collect().sort(PARTITION, "_key")
        for state in models.values()
    )
    own = pooled.filter(plan="basic")
    assert basic.drop("_source").equals(own.drop("_source"))
    assert 0 < basic.height < pooled.height
    assert gone.height == 0
    versions = {name: state.ledger.read().production_version for name, state in models.items()}
    assert versions == {"churn": 2, "churn_basic": 2, "churn_gone": None}
    runs = world.instance.get_runs(dg.RunsFilter(job_name="churn_monitor"))
    assert len(runs) == 1  # for all of them
    decided = world.instance.get_runs(dg.RunsFilter(job_name="churn_retrain"))
    assert {run.tags["dagster/partition"] for run in decided} == {"churn", "churn_basic"}


def test_a_segment_with_too_few_rows_takes_the_pooled_model_and_says_so(world: World) -> None:
    line = needs.summarize(states(world)["churn_gone"])
    reason = "0 rows of plan 'gone' in the windows, `min_rows` asks for 100: the pooled model churn"
    assert (line["need"], line["version"]) == ("version", None)
    assert line["why"].startswith(reason)
    service = new_service(world.storage, states(world), (), lambda _: None)
    for model in service.models.values():
        model.refresh()
    row = {"day": key(16), "id": 1, "x": 0.5, "plan": "basic"}
    with listening(service) as client:
        answers = {
            name: client.post(f"/models/{name}/predict", json={"rows": [row]}) for name in NAMES
        }
        assert client.get("/ready").json()["ready"]
    named = [answer.json()["model"] for answer in answers.values()]
    assert named == ["churn", "churn_basic", "churn"]
    values = [answer.json()["predictions"][0]["prediction"] for answer in answers.values()]
    assert values[2] == values[0] != values[1]


def test_a_model_that_fails_leaves_the_others_and_is_asked_for_again(world: World) -> None:
    world.land(16)
    features, built = build.build_features, list[str]()

    def fail_once(state: ModelState, *rest: Any) -> Any:
        built.append(state.spec.name)
        if built.count("churn_basic") == 1 and built[-1] == "churn_basic":
            raise ValueError("a function of yours failed")
        return features(state, *rest)

    with patch.object(build, "build_features", side_effect=fail_once):
        runs = [run for run in world.settle() if run.job == "churn_monitor"]
    assert built == [*NAMES, "churn_basic"]
    failed = [[*failures(world.instance, run.run_id)] for run in runs]
    where = "model churn_basic, reason ValueError: a function of yours failed"
    assert failed == [[f"churn/monitoring all_segments_monitored: {where}"], []]
    assert all(key(16) in state.built() for state in states(world).values())


def test_ticks_of_a_server_share_the_models_and_a_pass_looks_at_all(
    world: World, tmp_path: Path
) -> None:
    asked = list[str]()

    def record(state: ModelState) -> Request:
        asked.append(state.spec.name)
        return record_request(state)

    repository, cursor = world.definitions.get_repository_def(), None
    with dg.DagsterInstance.local_temp(str(tmp_path)) as stored:
        reference = stored.get_ref()
    with (
        patch.object(sensors, "MAX_SECONDS", -1),
        patch.object(sensors, "record_request", side_effect=record),
    ):
        for count in range(len(NAMES)):
            context = dg.build_sensor_context(
                instance=world.instance,
                instance_ref=reference,
                repository_def=repository,
                sensor_name="churn_retrain_wanted",
                resources=repository.get_top_level_resources(),
                cursor=cursor,
            )
            sensor = repository.get_sensor_def("churn_retrain_wanted")
            cursor = sensor.evaluate_tick(context).cursor
            assert asked == NAMES[: count + 1]
        asked.clear()
        assert world.settle() == []
    assert asked == NAMES


def test_the_policies_of_one_segment_can_be_replayed(world: World) -> None:
    policies = [PolicySpec(name="as it is"), PolicySpec(name="every 5", every=5)]
    outcome = replay_policies(states(world)["churn_basic"], policies, SILENT)
    assert [standing.name for standing in outcome.standings] == ["as it is", "every 5"]


def test_a_person_decides_on_one_segment(world: World) -> None:
    config = {"model": "churn_basic", "until": key(60), "reason": "a sale", "by": "a person"}
    world.daemon.execute("churn_pause", {}, {"ops": {"churn_pause_op": {"config": config}}})
    pauses = {name: state.ledger.read_pause() for name, state in states(world).items()}
    assert [name for name, pause in pauses.items() if pause] == ["churn_basic"]
    with pytest.raises(LookupError, match=r"no model 'basic'.*did you mean churn_basic"):
        world.model.member("basic")


def test_the_models_of_all_segments_retire_together(world: World, tmp_path: Path) -> None:
    (tmp_path / "defs.yaml").write_text(yaml_of({"for_each": FOR_EACH}), encoding="utf-8")
    parts = [*list_parts(tmp_path)]
    (part,) = (part for part in parts if part.kind == "model")
    lifecycle.retire(world.storage, lifecycle.Change(part, parts, "sold", "somebody", NAMES[1:]))
    newest = {name: [*state.ledger.read().rows][-1:] for name, state in states(world).items()}
    assert {name: [row.action for row in rows] for name, rows in newest.items()} == {
        "churn": ["retire"],
        "churn_basic": ["retire"],
        "churn_gone": [],
    }
    tags = world.storage.registry("churn_basic").client.get_registered_model("churn_basic").tags
    assert tags["retired"] == "by somebody: sold"
