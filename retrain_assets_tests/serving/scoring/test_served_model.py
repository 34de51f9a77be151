"""Which version answers: what the ledger says, and the old one on any doubt (F29 to F33)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import yaml
from polars.exceptions import PanicException

from retrain_assets.serving.run import SETTINGS, background
from retrain_assets.serving.scoring.served_model import ServedModel
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.ledger import Ledger
from retrain_assets.stores.registry.model_file import MODEL_FILE
from retrain_assets.stores.tables.tables import Tables
from retrain_assets_tests.projects import document, new_project
from retrain_assets_tests.serving.site import (
    COLUMNS,
    PLANS,
    ROW,
    SERVED,
    USAGE,
    Site,
    listening,
    new_site,
    plans,
    post,
    wait_until,
)
from retrain_assets_tests.world import DATASET


@pytest.fixture
def changing(tmp_path: Path) -> Site:
    return new_site(tmp_path)


def version_of(answered: httpx.Response) -> int:
    assert answered.status_code == 200, answered.text
    return int(answered.json()["version"])


def model_file(site: Site, number: int) -> Path:
    """Where MLflow keeps the file of a version."""
    registry = site.storage.registry("churn")
    place = registry.client.get_logged_model(registry.version(number).uri.rpartition("/")[2])
    return Path(place.artifact_location) / MODEL_FILE


@pytest.fixture
def asking() -> Iterator[Any]:
    """Clients that ask without a pause, and what they were answered."""
    stop, threads = threading.Event(), []

    def start(client: httpx.Client, answers: list[httpx.Response], count: int = 3) -> None:
        def ask() -> None:
            with httpx.Client(base_url=client.base_url) as own:
                while not stop.is_set():
                    answers.append(post(own, ROW, ROW | {"x": -1.0}))

        threads.extend(threading.Thread(target=ask) for _ in range(count))
        for thread in threads:
            thread.start()

    def end() -> None:
        stop.set()
        for thread in threads:
            thread.join()

    start.end = end  # type: ignore[attr-defined]
    yield start
    end()


def test_a_promotion_and_a_rollback_under_load_are_seen_in_the_answers_with_no_error(
    changing: Site, asking: Any
) -> None:
    service, answers = changing.service(), []
    with listening(service) as client, background(service, print, 0.05):
        asking(client, answers)
        wait_until(lambda: len(answers) > 20)
        first = changing.state.ledger.read().production
        assert first is not None
        changing.decide(*range(2, 14))
        wait_until(lambda: version_of(answers[-1]) == 2)
        changing.roll_back(first)
        wait_until(lambda: version_of(answers[-1]) == 1)
        asking.end()
    seen = {version_of(answered) for answered in answers}
    assert seen == {1, 2}
    values: dict[int, set[tuple[float, ...]]] = {}
    for answered in answers:
        found = answered.json()
        row = tuple(one["prediction"] for one in found["predictions"])
        values.setdefault(found["version"], set()).add(row)
    # Each answer is wholly of the version that it names.
    assert [len(values[number]) for number in (1, 2)] == [1, 1]
    assert values[1] != values[2]


@pytest.mark.parametrize("harm", ["flipped", "deleted", "pickle"])
def test_a_file_that_is_not_the_one_recorded_is_never_loaded(changing: Site, harm: str) -> None:
    told: list[str] = []
    service = changing.service(told.append)
    model = service.models["churn"]
    with listening(service) as client:
        changing.decide(*range(2, 14))
        path = model_file(changing, 2)
        if harm == "flipped":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        elif harm == "deleted":
            path.unlink()
        else:
            path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
        assert not model.refresh()
        assert version_of(post(client)) == 1
        (described,) = client.get("/models").json()["models"]
        assert "version 2 is not served" in described["trouble"][0]
        assert client.get("/ready").status_code == 200
    failures = model.failures
    model.refresh()
    assert model.failures == failures, "the same trouble is told once"
    assert len([line for line in told if "version 2 is not served" in line]) == 1
    restarted = changing.service()
    with listening(restarted) as client:
        assert client.get("/ready").status_code == 503
        refused = post(client)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")


def test_without_mlflow_the_last_verified_copy_answers(
    changing: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = post_alone(changing)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{closed.getsockname()[1]}"
        restarted = Site(changing.root, tracking_uri=away)
        assert post_alone(restarted) == before
    for copy in (changing.root / "serving" / "models").rglob(MODEL_FILE):
        copy.write_bytes(copy.read_bytes() + b"x")
    with listening(restarted.service()) as client:
        assert client.get("/ready").status_code == 503


def test_copies_are_kept_of_what_may_be_served_and_of_other_models(changing: Site) -> None:
    (model,) = changing.service().models.values()
    folder = changing.root / "serving" / "models"
    (folder / "theirs").mkdir()
    first = changing.state.ledger.read().production
    assert first is not None
    digests = [first.sha256]
    for last in (14, 15, 16):
        digests.append(changing.decide(*range(2, last)).sha256)
        assert model.refresh()
    digests.append(changing.decide(*range(4, 16), action="hold").sha256)
    assert model.refresh()
    assert len(set(digests)) == 5
    assert {path.name for path in folder.iterdir()} == {"theirs", *digests[2:]}


def post_alone(site: Site) -> list[float]:
    with listening(site.service()) as client:
        found = post(client).json()
    return [row["prediction"] for row in found["predictions"]]


@pytest.mark.parametrize("wrong", ["nan", "other"])
def test_a_model_that_predicts_otherwise_than_in_training_is_refused(
    changing: Site, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another library version would make it: the file is sound, its predictions are not."""
    from sklearn.ensemble import HistGradientBoostingClassifier as Model

    service = changing.service()
    changing.decide(*range(2, 14))
    real = Model.predict_proba
    change = float("nan") if wrong == "nan" else 1e-3
    monkeypatch.setattr(Model, "predict_proba", lambda self, rows: real(self, rows) + change)
    assert not service.models["churn"].refresh()
    monkeypatch.undo()
    with listening(service) as client:
        assert version_of(post(client)) == 1


def test_a_panic_of_polars_ends_neither_following_nor_storing(
    changing: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    service = changing.service(told.append)

    def panic(*_: Any, **__: Any) -> None:
        raise PanicException("index out of bounds")

    with (
        listening(service) as client,
        monkeypatch.context() as broken,
        background(service, told.append, 0.05, 0.05),
    ):
        broken.setattr(Ledger, "read", panic)
        broken.setattr(Tables, "replace", panic)
        assert version_of(post(client)) == 1
        wait_until(lambda: {"churn: index", "the prediction log waits"} <= {*map(start, told)})
        broken.undo()
        changing.decide(*range(2, 14))
        wait_until(lambda: version_of(post(client)) == 2)
    assert changing.storage.tables.scan("churn/prediction_log").collect().height >= 2


def start(said: str) -> str:
    return said.partition(" out")[0].partition(" in its")[0]


def test_an_alias_that_points_to_nothing_changes_nothing(changing: Site) -> None:
    changing.storage.registry("churn").client.delete_registered_model_alias("churn", "production")
    service = changing.service()
    with listening(service) as client:
        assert version_of(post(client)) == 1


def test_a_row_of_a_lookup_that_is_delivered_again_later_is_served_as_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = {"by": "day", "column": "since", "start": "2020-01-01"}
    monkeypatch.setitem(PLANS, "partition", partition)
    monkeypatch.setitem(PLANS, "columns", PLANS["columns"] | {"since": {"type": "date"}})
    features = {"sql": "SELECT x, plans_price AS price FROM rows"}
    site = Site(tmp_path, {"features": features, "lookups": {"plans": {"on": ["plan"]}}})
    spec = DatasetSpec.model_validate(PLANS)
    site.store(spec, plans().with_columns(since=pl.date(2020, 1, 1)))
    site.store(spec, plans(plus=7.0)[1:2].with_columns(since=pl.date(2020, 1, 2)))
    model = ServedModel(site.state, tmp_path, print)
    model.refresh()
    rows = model.lookups["plans"].rows.select("plan", "price")
    assert dict(rows.iter_rows()) == {"basic": 1.0, "plus": 7.0, "pro": 9.0}


def test_a_spec_that_no_longer_makes_a_feature_is_not_ready(changing: Site) -> None:
    other = Site(changing.root, {"features": {"sql": "SELECT x FROM rows"}, "lookups": {}})
    (trouble,) = other.service().models["churn"].troubles.values()
    assert "no longer makes plan, price, load, side, weekday" in trouble


@pytest.mark.parametrize("heard", [True, False])
def test_the_command_follows_a_project_whoever_listens_and_drains_on_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    site = new_site(tmp_path / "data")
    project = new_project(tmp_path / "project", monkeypatch)
    text = yaml.safe_dump_all(
        [
            document("LandedDataset", DATASET | {"columns": COLUMNS}),
            document("LandedDataset", PLANS),
            document("LandedDataset", USAGE),
            document("RetrainedModel", SERVED),
        ]
    )
    project.write(text)
    source = f"{project.root / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    process = subprocess.Popen(
        [sys.executable, "-m", "retrain_assets.cli", "serve", "--port", "0", "--json"],
        cwd=project.root,
        env=os.environ | {"RETRAIN_STORAGE": str(site.root), "PYTHONPATH": source},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = yaml.safe_load(process.stdout.readline())["message"]
        if not heard:
            process.stdout.close()
        with httpx.Client(base_url=said.removeprefix("listening on "), timeout=30) as client:
            assert client.get("/health").status_code == 200
            wait_until(lambda: client.get("/ready").status_code == 200)
            assert version_of(post(client)) == 1
            site.decide(*range(2, 14))
            wait_until(lambda: version_of(post(client)) == 2)

            def slowly() -> Iterator[bytes]:
                yield json.dumps({"rows": [ROW]}).encode()
                process.send_signal(signal.SIGTERM)
                yield b" " * 100

            answered = client.post(
                "/models/churn/predict",
                content=slowly(),
                headers={"content-type": "application/json"},
            )
            assert version_of(answered) == 2
        told = [json.loads(line)["message"] for line in process.stdout] if heard else []
        swapped = [line.partition(",")[0] for line in told if "answers" in line]
        assert swapped == [f"churn: version {number} answers" for number in (1, 2) if heard]
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
