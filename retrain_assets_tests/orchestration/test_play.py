"""Stored history arrives again as it did, and is accepted whole."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from retrain_assets.domain.data.rules import dataset_schema
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.play import History
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.data.ingest import ingest
from retrain_assets.stores.storage import Storage
from retrain_assets_tests.world import DATASET, MODEL, customers, key

DAYS = [key(number) for number in range(25)]
DERIVED = {"late": {"type": "bool", "expression": "_line > 3"}}
CHURN: dict[str, Any] = {
    **DATASET,
    "columns": DATASET["columns"] | DERIVED,
    "notify": {"webhook": "https://example.org"},
}
MONTHS: dict[str, Any] = {
    "name": "months",
    "landing": "months/*.csv",
    "partition": {"by": "month", "column": "month", "start": "2019-01"},
    "columns": {"month": {"type": "date"}, "rate": {"type": "float"}},
    "key": ["month"],
}


def history(root: Path, **options: Any) -> History:
    spec = ModelSpec.model_validate(MODEL | {"approval": "manual"})
    lookups = {"months": DatasetSpec.model_validate(MONTHS)}
    model = Model(spec, DatasetSpec.model_validate(CHURN), lookups)
    return History(model, Storage(root / "stored"), Storage(root / "play"), **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with 25 days of customers, and the rates of three months."""
    root = tmp_path_factory.mktemp("history")
    storage = Storage(root / "stored")
    (storage.landing / "customers").mkdir(parents=True)
    (storage.landing / "months").mkdir()
    for number, day in enumerate(DAYS):
        customers(number, rows=6).write_csv(storage.landing / "customers" / f"{day}.csv")
    rates = "month,rate\n2019-12-01,1\n2020-01-01,2\n2020-02-01,3\n"
    (storage.landing / "months" / "all.csv").write_text(rates)
    ingest(storage, DatasetSpec.model_validate(CHURN), DAYS, "run")
    ingest(storage, DatasetSpec.model_validate(MONTHS), ["2019-12", "2020-01", "2020-02"], "run")
    return root


def test_the_first_delivery_is_what_a_first_model_needs(root: Path) -> None:
    begin, *rest = history(root).deliveries
    assert (len(begin), len(rest), {len(part) for part in rest}) == (16, 9, {1})
    later = history(root, first=key(4), last=key(22), step=2).deliveries
    assert [len(part) for part in later] == [16, 2, 1]
    assert later[-1] == [key(22)]
    with pytest.raises(ValueError, match="the first model alone needs 16"):
        history(root, first=key(9)).deliveries  # noqa: B018


def test_what_arrives_again_is_accepted_as_it_was_stored(root: Path) -> None:
    again = history(root, step=4)
    played = again.played
    landed = [name for name, _ in again.land()]
    assert landed == [key(15), key(19), key(23), key(24)]
    outcome = ingest(again.target, played.dataset, DAYS, "run")
    assert (outcome.published, outcome.refused) == (tuple(DAYS), {})
    schema = dataset_schema(played.dataset)
    stored, new = (
        storage.tables.scan("customers/dataset", schema).collect().sort("day", "id")
        for storage in (again.stored, again.target)
    )
    assert new.equals(stored.select(new.columns))
    assert set(new["late"]) == {True, False}
    months = sorted((again.target.landing / "months").iterdir())
    assert [path.stem for path in months] == ["2019-12", "2020-01"]  # February has not begun
    assert pl.read_parquet(months[1])["rate"].to_list() == [2.0]


def test_nothing_that_is_played_sends_a_message_or_waits_for_a_person(root: Path) -> None:
    played = history(root).played
    assert not played.dataset.notify.model_fields_set
    assert not played.spec.notify.model_fields_set
    assert played.spec.approval == "auto"
