"""A replay decides what the live system decided, and leaves no trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from retrain_assets.cli import main, replay
from retrain_assets.domain.adaptation.service import Standing
from retrain_assets.domain.decision.replay import Outcome
from retrain_assets.reports.canvas import to_png
from retrain_assets.reports.plots import draw_replay
from retrain_assets.specs.model import ModelSpec, PolicySpec, TriggersSpec, usual_policies
from retrain_assets.steps.decision import layer
from retrain_assets.steps.replay import Replay, replay_policies
from retrain_assets_tests.world import World, key, new_world

TURN, SETTLED, LAST = 22, 30, 40
NOW, NEVER = PolicySpec(name="now"), PolicySpec(name="never", triggers=TriggersSpec())
WEEKLY = PolicySpec(name="weekly", every=7)


def silent(_name: str, _done: int, _total: int) -> None:
    """Told of progress."""


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose law has turned; the days around that have landed one by one."""
    with dg.DagsterInstance.ephemeral() as instance:
        world = new_world(tmp_path_factory.mktemp("lived"), instance)
        singly = ([number] for number in range(TURN, SETTLED))
        for several in (range(16), range(16, TURN), *singly, range(SETTLED, LAST)):
            world.land(*several, slope=2.0 if several[0] < TURN else -2.0)
            world.settle()
        yield world


@pytest.fixture(scope="module")
def outcome(lived: World) -> Outcome:
    return replay_policies(lived.state, [NOW, NEVER, WEEKLY], silent)


def content(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_replay_of_the_policy_as_it_is_decides_what_was_decided(
    lived: World, outcome: Outcome
) -> None:
    rows = lived.state.ledger.read().rows
    assert [row.action for row in rows].count("promote") >= 2
    assert {row.gate for row in rows} == {lived.spec.gate_digest}
    assert list(outcome.results[0].decisions) == [(row.as_of, row.action) for row in rows]
    tables = lived.storage.tables
    live = (
        tables.scan("churn/performance")
        .filter(role="performance")
        .sort("_landing_partition")
        .collect()
    )
    values = dict(live.select("_landing_partition", "value").iter_rows())
    assert outcome.results[0].values == pytest.approx(values)
    versions = lived.storage.registry("churn").versions()
    assert outcome.results[0].fits == len(versions)


def test_what_is_stored_stays_as_it_is(lived: World) -> None:
    before = content(lived.root)
    replay_policies(lived.state, [NOW], silent)
    assert content(lived.root) == before


def test_a_calendar_fits_through_the_newest_partition_whatever_was_seen(outcome: Outcome) -> None:
    weekly = outcome.results[2]
    assert weekly.decisions == tuple((key(n), "promote") for n in (15, 22, 29, 36))
    assert outcome.shared == [key(n) for n in range(16, LAST)]
    now, never, calendar = outcome.standings
    assert never.gain < -0.1
    assert (never.fits, calendar.fits) == (2, 4)
    assert now.gain == 0


def test_the_layer_over_a_calendar_has_its_fits_and_follows_a_law_that_turns(
    lived: World, outcome: Outcome
) -> None:
    weekly = outcome.results[2]
    adapted = Replay(lived.state).play(PolicySpec(name="adapted", every=7, adapt=True))
    assert (adapted.decisions, adapted.fits) == (weekly.decisions, weekly.fits)
    assert adapted.values.keys() == weekly.values.keys()
    first = key(16)
    assert adapted.values[first] == pytest.approx(weekly.values[first], rel=1e-9)
    turned = [key(number) for number in range(TURN + 2, 29)]
    assert all(adapted.values[day] < weekly.values[day] for day in turned)


def test_a_replay_lets_the_layer_in_as_the_live_system_does(
    lived: World, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def assess(newest: list[float], _: list[float], *, serves: bool, week: int) -> Standing:
        assert week == 7
        return Standing(serves, not serves and len(newest) > 7, len(newest), 0.0, 1.0, 1.0)

    monkeypatch.setattr(layer, "assess", assess)
    spec = lived.spec.model_copy(update={"adapt": "auto"})
    adapted, now = Replay(replace(lived.state, spec=spec)).play(NOW), outcome.results[0]
    first = next(day for day, action in adapted.decisions if action == "adapt")
    assert first == key(23)
    assert adapted.values.keys() == now.values.keys()
    same = [adapted.values[day] == pytest.approx(value) for day, value in now.values.items()]
    assert same[:8] == [True] * 8
    assert not any(same[8:12])


def test_the_layer_goes_with_a_calendar_and_with_means(lived: World) -> None:
    with pytest.raises(ValueError, match="`adapt` goes with `every`"):
        PolicySpec(name="gated", adapt=True)
    fields = lived.spec.model_dump() | {
        "target": lived.spec.target.model_dump() | {"kind": "regression"},
        "gate": {"metric": "pinball", "quantile": 0.9},
        "triggers": {},
    }
    spec = ModelSpec.model_validate(fields)
    assert not any(policy.adapt for policy in usual_policies(spec))
    assert any(policy.adapt for policy in usual_policies(lived.spec))
    policy = PolicySpec(name="adapted", every=7, adapt=True)
    with pytest.raises(ValueError, match="policy 'adapted': the adaptive layer predicts means"):
        Replay(replace(lived.state, spec=spec)).check(policy)


def test_labels_that_come_later_train_later(lived: World, tmp_path: Path) -> None:
    late = new_world(lived.root, lived.instance, labels={"delay": 2})
    found = replay_policies(late.state, [NOW, WEEKLY], silent)
    assert found.results[1].decisions[0] == (key(15), "promote")
    assert min(found.results[1].values) == key(18)
    assert found.results[0].decisions[0] == (key(15), "promote")
    assert min(found.results[0].values) == key(18)


def test_too_short_a_history_is_told(lived: World) -> None:
    with pytest.raises(ValueError, match=r"10 partitions are stored, windows\.train"):
        replay_policies(lived.state, [NOW], silent, last=key(9))


def test_a_policy_too_long_for_the_range_is_refused_before_any_is_played(lived: World) -> None:
    windows = lived.spec.windows.model_copy(update={"train": LAST})
    played: list[str] = []
    with pytest.raises(ValueError, match="policy 'long': 40 partitions are stored"):
        replay_policies(
            lived.state,
            [NOW, PolicySpec(name="long", windows=windows)],
            lambda name, _done, _total: played.append(name),
        )
    assert played == []


def test_the_usual_policies_are_near_the_model_and_its_rivals(lived: World) -> None:
    names = [policy.name for policy in usual_policies(lived.spec)]
    assert names[0] == "as it is"
    assert {"never", "every 7", "new_partitions: 14", "max_drop: 0.1"} < set(names)
    assert len(set(names)) == len(names)
    specs = {policy.name: policy.of(lived.spec) for policy in usual_policies(lived.spec)}
    lenient = {name for name, spec in specs.items() if spec.gate != lived.spec.gate}
    assert lenient == {f"new_partitions: {n}, unless_worse, adapted" for n in (14, 28)}
    assert {specs[name].layer.mode for name in lenient} == {"auto"}


def test_the_picture_is_the_same_each_time(outcome: Outcome) -> None:
    picture = to_png(draw_replay(outcome))
    assert picture == to_png(draw_replay(outcome))
    assert len(picture) > 10_000


def test_the_command_prints_a_table_and_yaml_and_takes_policies_from_a_file(
    lived: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay.base, "get_model", lambda _: lived.model)
    monkeypatch.setenv("RETRAIN_STORAGE", str(lived.root))
    file = tmp_path / "policies.yaml"
    file.write_text("name: none\ntriggers: {}\n---\nname: weekly\nevery: 7\n", encoding="utf-8")
    command = ["replay", "churn", "--policies", str(file), "--picture", str(tmp_path / "a.png")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "policy weekly: 0 of 40 partitions\n" in done.stderr
    assert "policy weekly: 40 of 40 partitions\n" in done.stderr
    assert done.stderr.count("policy weekly") == 9, "the first three tenths come at once"
    lines = done.stdout.splitlines()
    assert lines[1].startswith("policy ")
    assert [line.split("  ")[0] for line in lines[2:5]] == ["as it is", "none", "weekly"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    shown = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert [one["name"] for one in shown["policies"]] == ["as it is", "none", "weekly"]
    assert shown["proposed"] == {}
    file.write_text("name: x\ntrigers: {}\n", encoding="utf-8")
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert "line 2" in done.stderr
    assert "trigers" in done.stderr


def test_the_asset_shows_table_and_picture(lived: World) -> None:
    job = lived.definitions.resolve_job_def("churn_replay")
    done = job.execute_in_process(instance=lived.instance)
    (event,) = done.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert "policies" in metadata
    assert str(metadata["cost_and_benefit"].value).startswith("![picture](data:image/png")
