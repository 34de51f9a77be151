"""Every answer is in the prediction log once, whatever happens to process and storage."""

from __future__ import annotations

import fcntl
import io
import json
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from retrain_assets.serving import prediction_log
from retrain_assets.serving.run import background, prepare_writer
from retrain_assets.serving.scoring import score
from retrain_assets.stores.tables.tables import Tables
from retrain_assets_tests.killing import Point, kill_at
from retrain_assets_tests.serving.http.test_predict import as_json, raw_rows
from retrain_assets_tests.serving.site import (
    ROW,
    TREES,
    Site,
    listening,
    new_site,
    post,
    post_arrow,
)

TABLE = "churn/prediction_log"


@pytest.fixture
def changing(tmp_path: Path) -> Site:
    return new_site(tmp_path)


def logged(site: Site) -> pl.DataFrame:
    found = site.storage.tables.scan(TABLE).collect()
    return found.sort("_time", "_id", "_role")


def files(site: Site) -> list[Path]:
    return sorted((site.root / "serving" / "log").rglob("*.log"))


def test_what_was_answered_is_logged_with_features_version_and_key(changing: Site) -> None:
    service = changing.service()
    with listening(service) as client, background(service, print):
        answered = [post(client).json(), post(client, ROW, ROW | {"id": 2, "x": -1.5}).json()]
    expected = [row for one in answered for row in one["predictions"]]
    found = logged(changing)
    assert found["_id"].to_list() == [row["id"] for row in expected]
    assert found["_prediction"].to_list() == [row["prediction"] for row in expected]
    assert found["_key"].to_list() == ["2020-01-20|1", "2020-01-20|1", "2020-01-20|2"]
    assert set(found["_landing_partition"]) == {"2020-01-20"}
    assert set(found["_version"]) == {1}
    assert found["x"].to_list() == [0.5, 0.5, -1.5]
    assert found["side"].to_list() == ["up, or not", "up, or not", "down"]
    assert files(changing) == []


def test_intervals_are_logged_with_what_they_are_around(changing: Site) -> None:
    service = changing.service()
    model = service.models["churn"]
    with listening(service) as client, background(service, print):
        post(client)
        assert model.serving is not None
        model.serving = replace(model.serving, half_width=0.25)
        (row,) = post(client).json()["predictions"]
        post_arrow(client, raw_rows(changing, 15)[:70])
    rows = logged(changing)
    assert row["interval"] == [row["prediction"] - 0.25, row["prediction"] + 0.25]
    assert rows["_low"].null_count() == 1
    assert (rows["_high"] - rows["_low"]).drop_nulls().to_list() == pytest.approx([0.5] * 71)


def test_rows_that_come_as_arrow_are_logged_as_rows_of_json_are(changing: Site) -> None:
    changing.decide(*range(2, 14), action="hold")
    service, raw = changing.service(), raw_rows(changing, 15)
    with listening(service) as client, background(service, print):
        few = [post(client, *as_json(raw[at : at + 50])) for at in range(0, raw.height, 50)]
        one = [row for answered in few for row in answered.json()["predictions"]]
        answers = [post_arrow(client, raw[:70]), post_arrow(client, raw[70:])]
    two = pl.concat(pl.read_ipc_stream(io.BytesIO(found.content)) for found in answers)
    json, arrow = (
        part.drop("_id", "_time", "_segment").sort("_role", "_key")
        for part in (logged(changing)[: 2 * len(one)], logged(changing)[2 * len(one) :])
    )
    assert_frame_equal(arrow, json)
    assert json.height == 2 * raw.height
    kept = logged(changing).filter(pl.col("_role") == "production")["_id"]
    assert set(kept) == {*(row["id"] for row in one), *two["id"]}
    assert files(changing) == []


def test_another_process_stores_and_this_one_where_that_is_gone(changing: Site) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), prepare_writer) as elsewhere:
        states = {"churn": changing.state}
        kept = prediction_log.PredictionLog(
            changing.root / "serving" / "log", states, 2**20, elsewhere
        )
        with listening(replace(changing.service(), log=kept)) as client:
            post(client)
            assert kept.flush() == 1
            process = elsewhere.submit(os.getpid).result()
            assert process != os.getpid()
            os.kill(process, signal.SIGKILL)
            post(client, ROW | {"id": 2})
            assert kept.flush() == 1
    assert logged(changing)["_key"].to_list() == ["2020-01-20|1", "2020-01-20|2"]
    assert files(changing) == []


def test_a_held_candidate_predicts_in_the_shadow_and_answers_nobody(changing: Site) -> None:
    changing.decide(*range(2, 14), action="hold")
    service = changing.service()
    with listening(service) as client, background(service, print):
        answered = post(client).json()
    live, shadow = logged(changing).partition_by("_role", maintain_order=True)
    assert (live["_version"].to_list(), shadow["_version"].to_list()) == ([1], [2])
    assert live["_prediction"].to_list() == [answered["predictions"][0]["prediction"]]
    assert live["_id"].to_list() == shadow["_id"].to_list()
    assert live["_prediction"].to_list() != shadow["_prediction"].to_list()


def answer_and_store(root: str, count: int) -> None:
    """In a process that will be killed: answer requests, then store the log."""
    site = Site(Path(root))
    service = site.service()
    with listening(service) as client:
        for number in range(count):
            post(client, ROW | {"id": number})
        service.log.flush()


@pytest.mark.parametrize(
    "point",
    [
        Point("retrain_assets.stores.tables.tables:Tables.replace"),
        Point("retrain_assets.stores.tables.tables:Tables.replace", after=True),
        Point("retrain_assets.serving.prediction_log:PredictionLog.flush"),
        Point("retrain_assets.serving.prediction_log:PredictionLog.write", 3, after=True),
    ],
    ids=str,
)
def test_what_a_killed_process_had_answered_is_stored_once(changing: Site, point: Point) -> None:
    kill_at(point, answer_and_store, str(changing.root), 5)
    wanted = 3 if "write" in point.function else 5
    assert changing.service().log.flush() == 1
    assert logged(changing)["_key"].to_list() == [f"2020-01-20|{n}" for n in range(wanted)]
    assert changing.service().log.flush() == 0


@pytest.mark.parametrize("form", ["json", "arrow"])
def test_a_record_that_was_cut_off_is_left_out(changing: Site, form: str) -> None:
    service, raw = changing.service(), raw_rows(changing, 15).head(3)
    with listening(service) as client:
        for _ in range(2):
            post(client, *as_json(raw)) if form == "json" else post_arrow(client, raw)
    (path,) = files(changing)
    os.truncate(path, path.stat().st_size - 200)
    service.log.flush()
    assert logged(changing).height == 3


def test_a_file_that_is_full_is_stored_while_the_next_is_written(
    changing: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "SEGMENT_BYTES", 10)
    service = changing.service()
    with listening(service) as client:
        for number in range(5):
            post(client, ROW | {"id": number})
        assert service.log.flush() == 5
    assert logged(changing).height == 5


def test_a_file_that_another_process_writes_is_left_alone(changing: Site) -> None:
    service = changing.service()
    with listening(service) as client:
        post(client)
        assert changing.service().log.flush() == 0
        assert service.log.flush() == 1


def test_while_storage_is_away_predictions_wait_on_disk_up_to_a_bound(
    changing: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    service = changing.service(backlog_bytes=3_000)

    def away(*_: Any, **__: Any) -> None:
        raise OSError("storage is away")

    with monkeypatch.context() as without:
        without.setattr(Tables, "replace", away)
        with listening(service) as client, background(service, told.append, flush_seconds=0.05):
            answers = [post(client) for _ in range(30)]
    codes = [answered.status_code for answered in answers]
    assert codes == sorted(codes)
    assert set(codes) == {200, 503}
    assert answers[-1].json()["error"]["code"] == "backlog"
    assert len([line for line in told if "storage is away" in line]) <= 30
    service.log.flush()
    assert logged(changing).height == codes.count(200)
    with listening(service) as client:
        assert post(client).status_code == 200


def test_what_cannot_be_written_down_is_not_answered(
    changing: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = changing.service()
    with listening(service) as client:
        assert post(client).status_code == 200
        with monkeypatch.context() as full:
            full.setattr("os.write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
            refused = post(client)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "log")
        assert post(client).status_code == 200
    service.log.flush()
    assert logged(changing).height == 2


def test_a_disk_that_was_full_from_the_start_leaves_nothing_behind(
    changing: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = changing.service()

    def held() -> list[Path]:
        found = [
            place.readlink() for place in Path("/proc/self/fd").iterdir() if place.is_symlink()
        ]
        return [path for path in found if path.is_relative_to(changing.root / "serving" / "log")]

    with listening(service) as client:
        with monkeypatch.context() as full:
            full.setattr("os.write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
            assert [post(client).status_code for _ in range(3)] == [503] * 3
        assert (files(changing), held()) == ([], [])
        assert post(client).status_code == 200
        assert len(held()) == 1
    assert service.log.flush() == 1
    assert logged(changing).height == 1


def test_a_flush_elsewhere_takes_no_file_that_is_just_begun(
    changing: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, elsewhere, lock = changing.service(), changing.service().log, fcntl.flock
    flushed: list[int] = []

    def late(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        flushed.append(elsewhere.flush())
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with listening(service) as client:
        assert post(client).status_code == 200
    assert flushed == [1]
    service.log.flush()
    assert logged(changing).height == 1


def test_a_class_of_several_is_logged_with_its_probabilities(tmp_path: Path) -> None:
    target = {"column": "gone", "expression": "plan", "kind": "multiclass"}
    site = new_site(
        tmp_path,
        target=target,
        features={"sql": "SELECT x, plans_price AS price FROM rows"},
        triggers={},
        gate={"metric": "log_loss", "min_blocks": 4},
    )
    service = site.service()
    with listening(service) as client, background(service, print):
        (found,) = post(client).json()["predictions"]
        framed = post_arrow(client, raw_rows(site, 15).head(2))
    assert found["prediction"] == max(found["probabilities"], key=found["probabilities"].get)
    classes = list(found["probabilities"])
    answered = pl.read_ipc_stream(io.BytesIO(framed.content))
    rows = answered.select(f"probability_{name}" for name in classes).rows()
    assert answered["prediction"].to_list() == [classes[row.index(max(row))] for row in rows]
    kept = [list(found["probabilities"].values()), *map(list, rows)]
    assert logged(site)["_prediction"].to_list() == kept


ODD_FEATURES = {"sql": "SELECT x, x > 0 AS is_up, 1 / x AS ratio, 0 / x AS none, plan FROM rows"}


@pytest.mark.parametrize("kind", ["trees", "linear"])
def test_a_feature_that_is_not_finite_is_null_and_harms_no_other_row(
    tmp_path: Path, kind: str
) -> None:
    estimator = TREES if kind == "trees" else {"class": "sklearn.linear_model.LogisticRegression"}
    site = new_site(tmp_path, features=ODD_FEATURES, lookups={}, estimator=estimator)
    service, raw = site.service(), raw_rows(site, 15)[:70]
    zero = raw.with_columns(
        pl.when(pl.col("id") == raw["id"][3]).then(0.0).otherwise("x").alias("x")
    )
    with listening(service) as client:
        (sound, odd) = (
            [
                *(
                    post(client, row).json()["predictions"][0]["prediction"]
                    for row in as_json(rows)
                ),
                *(row["prediction"] for row in post(client, *as_json(rows)).json()["predictions"]),
                *pl.read_ipc_stream(io.BytesIO(post_arrow(client, rows).content))["prediction"],
            ]
            for rows in (raw, zero)
        )
        features = {"x": 0.0, "is_up": False, "ratio": None, "none": None, "plan": raw["plan"][3]}
        asked = {"dataframe_records": [features, features | {"is_up": 0}]}
        invoked = client.post("/invocations", json=asked)
    assert service.log.flush() > 0
    assert [value for place, value in enumerate(odd) if place % 70 != 3] == [
        value for place, value in enumerate(sound) if place % 70 != 3
    ]
    assert len({*odd[3::70]}) == 1
    assert invoked.json()["predictions"] == [int(odd[3] > 0.5)] * 2
    stored = logged(site).filter(pl.col("x") == 0)
    assert stored.select("is_up", "ratio", "none").unique().rows() == [(0.0, None, None)]
    assert stored.height == 3 + 2
    assert set(logged(site)["is_up"]) == {0.0, 1.0}


def test_what_one_model_cannot_store_keeps_no_other_from_its_table(
    changing: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, replace_partitions = changing.service(), Tables.replace
    states = {"broken": changing.state, "churn": changing.state}
    log = prediction_log.PredictionLog(changing.root / "serving" / "log", states, 2**30)
    scored = score.score(service.models["churn"], [read_row()])

    def refuse(tables: Tables, *arguments: Any, **named: Any) -> int:
        if list(arguments[2]) == [path.stem for path in files(changing) if "broken" in path.parts]:
            raise ValueError("column x would lose values")
        return replace_partitions(tables, *arguments, **named)

    monkeypatch.setattr(Tables, "replace", refuse)
    for name in states:
        log.write(name, "1", datetime.now(UTC), [read_row()], scored)
    for _ in range(2):
        with pytest.raises(prediction_log.LogError, match=r"^broken: column x would lose values$"):
            log.flush()
    assert logged(changing).height == 1
    monkeypatch.undo()
    assert log.flush() == 1
    assert logged(changing).height == 2


def test_a_file_that_cannot_be_read_is_set_aside_and_the_others_are_stored(
    changing: Site,
) -> None:
    service = changing.service()
    with listening(service) as client:
        for number in range(2):
            post(client, ROW | {"id": number})
            service.log._store_closed({})
            for segment in service.log._open.values():
                os.close(segment.descriptor)
            service.log._open.clear()
    first, second = files(changing)
    content = first.read_bytes()
    first.write_bytes(content[:-40] + b"\x00" + content[-39:])
    with pytest.raises(prediction_log.LogError, match="set aside"):
        service.log.flush()
    assert logged(changing)["_segment"].to_list() == [second.stem]
    assert [path.name for path in first.parent.iterdir()] == [f"{first.stem}.unreadable"]
    assert service.log.flush() == 0


def read_row() -> dict[str, Any]:
    times = {"day": date(2020, 1, 20), "at": datetime(2020, 1, 20, 9, 30, tzinfo=UTC)}
    return ROW | times


def test_a_feature_that_is_text_in_a_later_version_is_logged_beside_its_numbers(
    changing: Site,
) -> None:
    service = changing.service()
    with listening(service) as client, background(service, print):
        post(client, ROW | {"x": 0.1})
    service = changing.service()
    with listening(service) as client:
        post(client)
        (file,) = files(changing)
        head, record = map(json.loads, file.read_text().splitlines())
    head |= {"version": 2, "features": [[name, True] for name, _ in head["features"]]}
    record |= {name: ["high"] for name, _ in head["features"]}
    file.with_stem("later").write_text(f"{json.dumps(head)}\n{json.dumps(record)}\n")
    assert service.log.flush() == 2
    assert logged(changing).sort("_version", "x")["x"].to_list() == ["0.1", "0.5", "high"]
