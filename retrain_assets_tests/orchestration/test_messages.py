"""What happens is told, once, whatever fails or dies on the way; and no work fails for it."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from retrain_assets.orchestration.dagster_internals.ticks import UnsettledError
from retrain_assets.orchestration.messages import of_dataset, of_model, tell
from retrain_assets.orchestration.partitions import range_tags
from retrain_assets.orchestration.resources import Channels
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.messages import Outbox
from retrain_assets_tests.killing import Point, kill_at
from retrain_assets_tests.receivers import Web, mail_server, web
from retrain_assets_tests.world import DATASET, World, customers, key, new_world

NOTIFY = {"slack": "#ml"}
SECRET = base64.b64encode(b"canary-canary-canary-1234").decode()
NOW = datetime(2020, 6, 1, 12, tzinfo=UTC)


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-canary")
    with web() as server:
        yield server


@pytest.fixture
def telling(tmp_path: Path, instance: dg.DagsterInstance, slack: Web) -> World:
    """A world in which Slack is told of all."""
    dataset = DatasetSpec.model_validate(DATASET | {"notify": NOTIFY})
    world = new_world(tmp_path, instance, notify=NOTIFY)
    return replace(world, dataset=dataset, slack_url=slack.url())


def texts(server: Web) -> list[list[str]]:
    return [posted.form["text"].split("\n") for posted in server.posted]


def told_of_model(world: World, clock: Clock) -> str:
    channels = Channels(slack_url=world.slack_url)
    return tell(of_model(world.model), world.storage, channels, world.instance, clock)


def told_of_dataset(world: World, clock: Clock) -> str:
    channels = Channels(slack_url=world.slack_url)
    return tell(of_dataset(world.dataset), world.storage, channels, world.instance, clock)


def decide(world: World, action: Any, version: int = 1, **changes: Any) -> None:
    """A row in the ledger, as a decision that told nobody leaves it."""
    row = LedgerRow(
        time=NOW,
        as_of=key(9),
        seen_through=key(9),
        action=action,
        version=version,
        candidate=version,
        previous=None,
        reason="it is better",
        causes=("data_drift",),
        data_range=(key(0), key(9)),
        metrics={"log_loss": 0.5},
        by="the board",
        sha256="ab",
        recipe="cd",
        because="x has drifted",
    )
    ledger = world.state.ledger
    ledger.append(replace(row, **changes), ledger.read())


def run(world: World, job: str, *, config: Any = None, **tags: str) -> dg.ExecuteInProcessResult:
    definition = world.definitions.resolve_job_def(job)
    return definition.execute_in_process(
        instance=world.instance, tags=tags, run_config=config, raise_on_error=False
    )


def monitored(world: World) -> None:
    """Sixteen days are there, and nothing is decided."""
    world.land(*range(16))
    for job in ("customers_ingest", "churn_monitor"):
        assert run(world, job, **range_tags(key(0), key(15))).success


def test_a_decision_is_told_by_the_run_that_makes_it_and_not_again(
    telling: World, slack: Web
) -> None:
    monitored(telling)
    assert slack.posted == []
    assert run(telling, "churn_retrain").success
    ((asked, promoted),) = texts(slack)
    assert asked == "churn: retraining (request): a person asked for it"
    assert promoted.startswith("churn: version 2 is in production. ")
    assert telling.settle() == []
    assert len(slack.posted) == 1


def test_the_sensors_tell_of_the_whole_loop_and_why(telling: World, slack: Web) -> None:
    telling.land(*range(16))
    telling.settle()
    ((asked, promoted),) = texts(slack)
    because = "a first model is needed"
    assert asked == f"churn: retraining as of {key(15)} (no_production): {because}"
    assert promoted.endswith(f"Asked for: {because}")
    config = {"ops": {"churn_rollback_op": {"config": {"reason": "it is <worse>"}}}}
    assert not run(telling, "churn_rollback", config=config).success, "there is none to go back to"
    telling.settle()
    assert len(slack.posted) == 1, "a failed run is no decision, and waits for the digest"


def test_a_hanging_slack_keeps_no_decision_waiting_for_long(
    telling: World, slack: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrain_assets.orchestration.resources.TIMEOUT_SECONDS", 0.3)
    slack.hangs = True
    monitored(telling)
    assert run(telling, "churn_retrain").success
    (row,) = telling.state.ledger.read().rows
    notices = Outbox(telling.storage.tables, "churn").read()
    assert (row.action, len(notices)) == ("promote", 2)
    assert {(one.attempts, one.error) for one in notices} == {(1, "TimeoutError: timed out")}


def test_what_a_broken_outbox_says_breaks_no_decision(
    telling: World, monkeypatch: pytest.MonkeyPatch, slack: Web
) -> None:
    monitored(telling)

    def broken(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Outbox, "read", broken)
    assert run(telling, "churn_retrain").success
    assert slack.posted == []


SAID = {
    "promote": ("promoted", "churn: version 7 is in production. it is better. Asked for: x has"),
    "hold": ("held", "churn: version 7 is held back, production stays. it is better"),
    "reject": ("refused", "churn: version 7 is refused, production stays. it is better"),
    "stage": (
        "waiting_for_approval",
        "churn: version 7 waits: retrain approve churn 7 --by NAME --reason WHY. it is better",
    ),
    "rollback": ("rolled_back", "churn: rolled back to version 7 by the board. it is better"),
    "approve": ("promoted", "churn: version 7 is in production, approved by the board. it is"),
    "adopt": ("promoted", "churn: version 7 is in production, adopted by the board. it is"),
    "adapt": ("adaptation", "churn: the adaptive layer serves with version 7. it is better"),
    "withdraw": ("adaptation", "churn: version 7 serves without the adaptive layer. it is better"),
}


@pytest.mark.parametrize("action", SAID)
def test_every_kind_of_decision_is_told_in_its_own_words(
    telling: World, slack: Web, clock: Clock, action: str
) -> None:
    decide(telling, action, 7)
    assert told_of_model(telling, clock) == "1 messages sent, 0 events wait"
    kind, said = SAID[action]
    assert slack.posted[0].form["text"].startswith(said)
    (notice,) = Outbox(telling.storage.tables, "churn").read()
    assert notice.kind == kind
    assert json.loads(notice.fields)["version"] == 7


def test_a_refused_file_is_told_with_its_rows_and_reason_until_it_is_corrected(
    telling: World, slack: Web, clock: Clock
) -> None:
    telling.land(0, 1)
    folder = telling.root / "landing" / "customers"
    customers(2).drop("x").write_csv(folder / f"{key(2)}.csv")
    (folder / f"{key(3)}.csv").write_text(f"day,id,x,plan,left\n{key(3)},1,<!here>,basic,0\n")
    run(telling, "customers_ingest", **range_tags(key(0), key(3)))
    told_of_dataset(telling, clock)
    ((missing, unreadable),) = texts(slack)
    assert missing.startswith(f"customers: customers/{key(2)}.csv of {key(2)} is refused, ")
    assert unreadable == (
        f"customers: customers/{key(3)}.csv of {key(3)} is refused, 1 row: its only row was "
        "refused; the first is on line 2: column x: '&lt;!here&gt;' breaks the rule type"
    )
    clock.now += timedelta(hours=1)
    run(telling, "customers_ingest", **range_tags(key(0), key(3)))
    assert told_of_dataset(telling, clock) == "0 messages sent, 0 events wait"
    customers(3).drop("x").write_csv(folder / f"{key(3)}.csv")
    run(telling, "customers_ingest", **range_tags(key(3), key(3)))
    assert told_of_dataset(telling, clock) == "1 messages sent, 0 events wait"


def test_late_data_is_told_where_production_was_trained_on_it(telling: World, slack: Web) -> None:
    telling.land(*range(16))
    telling.settle()
    telling.land(7, shift=0.5)
    telling.settle()
    assert len(slack.posted) == 1, "it waits for the digest"
    later = Clock()
    later.now = datetime.now(UTC) + timedelta(minutes=10)
    told_of_model(telling, later)
    said = "churn: version 2 was trained on customers v0; 1 of its partitions were corrected since"
    assert texts(slack)[1] == [f"{said}: {key(7)}"]


@pytest.mark.parametrize(
    ("expected", "now", "told"),
    [
        ("36h", datetime(2020, 1, 4, 11, 59, tzinfo=UTC), None),
        ("36h", datetime(2020, 1, 4, 12, 0, tzinfo=UTC), 1),
        ("36h", datetime(2020, 1, 2, 12, 0, tzinfo=UTC), None),
        ("0s", datetime(2020, 1, 3, 0, 0, tzinfo=UTC), 1),
        (None, NOW, None),
    ],
)
def test_a_partition_that_does_not_land_in_time_is_told(
    telling: World, slack: Web, clock: Clock, expected: str | None, now: datetime, told: int | None
) -> None:
    dataset = telling.dataset.model_copy(update={"expected": expected})
    world = replace(telling, dataset=dataset)
    world.land(0)
    run(world, "customers_ingest", **range_tags(key(0), key(0)))
    clock.now = now
    told_of_dataset(world, clock)
    said = [f"customers: {key(told)} has not landed {expected} after its end"] if told else []
    assert [line for lines in texts(slack) for line in lines] == said


def test_a_failed_run_is_told_with_its_reason_and_again_only_when_it_was_quiet(
    telling: World, slack: Web, clock: Clock
) -> None:
    for _ in range(3):
        with pytest.raises(UnsettledError):
            telling.daemon.execute("customers_ingest", range_tags(key(0), key(1)), {})
        told_of_dataset(telling, clock)
        clock.now += timedelta(hours=1)
    ((line,),) = texts(slack)
    said = f"dataset customers: nothing for {key(0)} to {key(1)} in customers/"
    assert line.startswith(f"customers: customers_ingest failed, {said}")
    clock.now += timedelta(days=1)
    told_of_dataset(telling, clock)
    assert texts(slack)[1][0].endswith("(2 times)")


def test_a_failed_run_of_assets_selected_in_the_ui_is_told_of_whose_they_are(
    telling: World, slack: Web, clock: Clock
) -> None:
    job = telling.definitions.get_implicit_global_asset_job_def()
    for asset in ("customers/dataset", "churn/features"):
        selection = [dg.AssetKey(asset.split("/"))]
        if asset.startswith("customers"):
            selection.append(dg.AssetKey(["customers", "quarantine"]))
        job.execute_in_process(
            instance=telling.instance,
            raise_on_error=False,
            asset_selection=selection,
            tags=range_tags(key(0), key(1)),
        )
    told_of_dataset(telling, clock)
    told_of_model(telling, clock)
    (first,), (second,) = texts(slack)
    assert first.startswith("customers: a run from the UI failed, ")
    assert second.startswith("churn: a run from the UI failed, ")


def test_records_that_cannot_be_read_keep_nobody_from_being_told_of_others(
    telling: World, slack: Web, clock: Clock
) -> None:
    run(telling, "churn_monitor", **range_tags(key(0), key(1)))
    decide(telling, "promote")
    log = telling.root / "delta" / "churn" / "ledger" / "_delta_log"
    (log / f"{0:020}.json").write_text("")
    said = told_of_model(telling, clock)
    assert said.startswith("1 messages sent, 0 events wait; StorageError: table churn/ledger: ")
    assert texts(slack)[0][0].startswith("churn: churn_monitor failed, ")


def test_an_outage_of_several_ticks_loses_none_and_doubles_none(
    telling: World, slack: Web, clock: Clock
) -> None:
    slack.status, slack.body = 500, b'{"ok": false, "error": "down"}'
    for version in range(1, 6):
        decide(telling, "promote", version)
        assert "slack: HTTP 500: down" in told_of_model(telling, clock)
        clock.now += timedelta(minutes=1)
    tried = len(slack.posted)
    slack.status, slack.body = 200, b'{"ok": true}'
    for _ in range(4):
        clock.now += timedelta(hours=1)
        said = told_of_model(telling, clock)
    assert said == "0 messages sent, 0 events wait"
    lines = [line for found in texts(slack)[tried:] for line in found]
    assert sorted(lines) == sorted(
        f"churn: version {n} is in production. it is better. Asked for: x has drifted"
        for n in range(1, 6)
    )


def test_where_slack_is_down_mail_is_sent_all_the_same(
    telling: World, slack: Web, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slack.status = 500
    both = telling.spec.model_copy(
        update={"notify": telling.spec.notify.model_copy(update={"email": ["ml@example.org"]})}
    )
    world = replace(telling, spec=both)
    decide(world, "rollback")
    with mail_server() as mail:
        settings = {"HOST": "127.0.0.1", "PORT": mail.port, "SENDER": "a@b.c", "TLS": "off"}
        for name, value in settings.items():
            monkeypatch.setenv(f"SMTP_{name}", str(value))
        assert told_of_model(world, clock).startswith("1 messages sent, 1 events wait; slack: HTTP")
    assert mail.delivered[0].mail["subject"].startswith("churn: rolled back to version 1")


def test_many_that_tell_at_once_send_each_message_once(
    telling: World, slack: Web, clock: Clock
) -> None:
    for version in range(1, 4):
        decide(telling, "hold", version)
        with ThreadPoolExecutor(6) as pool:
            said = list(pool.map(lambda _: told_of_model(telling, clock), range(6)))
        assert sum(text.startswith("1 messages sent") for text in said) == 1
    assert [len(lines) for lines in texts(slack)] == [1, 1, 1]


@pytest.mark.parametrize("token", ["", "xoxb-canary"])
def test_nothing_is_written_where_nobody_can_be_told(
    world: World, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", token)
    named = replace(world, spec=world.spec.model_copy(update={"notify": world.spec.notify}))
    said = {"": "slack: SLACK_BOT_TOKEN is not set", "xoxb-canary": ""}[token]
    if not token:
        named = new_world(world.root, world.instance, notify=NOTIFY)
    decide(named, "promote")
    assert told_of_model(named, Clock()) == said
    assert named.storage.tables.version("churn/outbox") is None
    sensors = {sensor.name for sensor in named.definitions.get_repository_def().sensor_defs}
    assert ("churn_messages" in sensors) is (not token)


def test_nothing_is_written_where_nothing_happened(
    telling: World, slack: Web, clock: Clock
) -> None:
    decide(telling, "promote")
    told_of_model(telling, clock)
    version = telling.storage.tables.version("churn/outbox")
    for _ in range(3):
        clock.now += timedelta(hours=1)
        told_of_model(telling, clock)
    assert telling.storage.tables.version("churn/outbox") == version


# Death.


def hooked(root: Path, instance: dg.DagsterInstance, url: str) -> World:
    """A world that tells a webhook."""
    return new_world(root, instance, notify={"webhook": url})


def tell_in_process(root: Path, environment: dict[str, str], url: str, clock: Clock) -> None:
    os.environ.update(environment)
    with dg.DagsterInstance.ephemeral() as instance:
        told_of_model(hooked(root, instance, url), clock)


SENT = "retrain_assets.steps.upkeep.messages:_send"
CHANGE = "retrain_assets.stores.messages:Outbox.change"
DEATHS = {
    Point("retrain_assets.steps.upkeep.messages:deliver"): 0,
    Point(CHANGE): 0,
    Point(CHANGE, after=True): 0,
    Point(SENT): 0,
    Point(SENT, after=True): 1,
    Point(CHANGE, 2): 1,
    Point(CHANGE, 2, after=True): 1,
}


@pytest.mark.parametrize("point", DEATHS, ids=str)
def test_a_message_whose_sender_dies_is_sent_by_the_next_under_the_same_id(
    tmp_path: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
    point: Point,
) -> None:
    environment = {"RETRAIN_WEBHOOK_SECRET": SECRET, "RETRAIN_WEBHOOK_HOSTS": "127.0.0.1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with web() as server:
        world = hooked(tmp_path, instance, server.url())
        decide(world, "promote")
        kill_at(point, tell_in_process, tmp_path, environment, server.url(), clock)
        assert len(server.posted) == DEATHS[point]
        told_of_model(world, clock)
        clock.now += timedelta(minutes=2)
        told_of_model(world, clock)
        clock.now += timedelta(hours=2)
        assert told_of_model(world, clock) == "0 messages sent, 0 events wait"
    recorded = point == Point(CHANGE, 2, after=True)
    assert len(server.posted) == (1 if recorded else DEATHS[point] + 1)
    assert len({posted.headers["webhook-id"] for posted in server.posted}) == 1


# Secrets.


def test_no_credential_reaches_storage_dagster_or_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "dagster"
    state.mkdir()
    canaries = {"SLACK_BOT_TOKEN": "xoxb-canary1", "SMTP_PASSWORD": "canary2"}
    canaries |= {"RETRAIN_WEBHOOK_SECRET": f"whsec_{SECRET}"}
    notify = {"slack": "#ml", "email": ["ml@example.org"]}
    with (
        caplog.at_level("DEBUG"),
        web() as server,
        mail_server(password="sesame") as mail,
        dg.instance_for_test(temp_dir=str(state)) as instance,
    ):
        settings = {"HOST": "127.0.0.1", "PORT": mail.port, "SENDER": "a@b.c", "TLS": "off"}
        named = {f"SMTP_{name}": str(value) for name, value in settings.items()}
        named |= {"SMTP_USERNAME": "retrain", "RETRAIN_WEBHOOK_HOSTS": "127.0.0.1", **canaries}
        for name, value in named.items():
            monkeypatch.setenv(name, value)
        server.status = 403
        server.body = json.dumps({"ok": False, "error": " ".join(canaries.values())}).encode()
        world = new_world(tmp_path, instance, notify=notify | {"webhook": server.url()})
        world = replace(world, slack_url=server.url())
        world.land(*range(16))
        world.settle()
        notices = Outbox(world.storage.tables, "churn").read()
    assert {notice.channel for notice in notices if notice.error} == {"slack", "email", "webhook"}
    everything = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(everything) > 50
    for secret in (*canaries.values(), SECRET, base64.b64encode(b"\0retrain\0canary2").decode()):
        assert secret not in caplog.text
        assert not [True for content in everything if secret.encode() in content]
