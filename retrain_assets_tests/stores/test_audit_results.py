"""The results of an audit are kept as JSON: without personal values, and of the newest runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from great_expectations import ExpectationSuite

from retrain_assets.domain.data.expectations import figures
from retrain_assets.domain.data.rules import PARTITION, dataset_schema
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.data.ingest import ingest
from retrain_assets.stores import audit as module
from retrain_assets.stores.audit import Audit, audit, write_results
from retrain_assets.stores.place import Folder
from retrain_assets_tests.world import World, key

CANARY = "canary-7391"
MOST = "expect_column_most_common_value_to_be_in_set"
SPEC = DatasetSpec.model_validate(
    {
        "name": "sales",
        "landing": "sales/{partition}.csv",
        "partition": {"by": "day", "column": "day", "start": "2013-01-01"},
        "columns": {
            "day": {"type": "date"},
            "kind": {"type": "category", "allowed": ["a", "<b>&"], "pattern": "[a-z<>&]+"},
            "name": {"type": "text", "pattern": "[a-z ]+", "personal": True},
            "note": {"type": "text", "expression": "UPPER(name)", "allowed": ["A"]},
            "price": {"type": "float", "max": 9},
        },
        "key": ["day", "name"],
        "expectations": [
            {
                "type": "expect_column_mean_to_be_between",
                "kwargs": {"column": "price", "max_value": 5},
            },
            {"type": MOST, "kwargs": {"column": "name", "value_set": ["ada"]}},
        ],
    }
)


def rows(**changes: Any) -> pl.DataFrame:
    row = {"kind": "a", "name": "ada", "note": "A", "price": 1.0} | changes
    day = pl.lit("2013-01-31")
    frame = pl.DataFrame([row]).with_columns(day.alias(PARTITION), day.str.to_date().alias("day"))
    return frame.select(*dataset_schema(SPEC))


def written(folder: Path, run_id: str = "run-1", **changes: Any) -> Any:
    frame = rows(**changes)
    path = write_results(audit(frame, figures(frame, SPEC), SPEC), SPEC, Folder(folder), run_id)
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_the_results_of_a_run_say_what_failed_where(tmp_path: Path) -> None:
    results = written(tmp_path, price=7.0)
    (failed,) = [finding for finding in results["findings"] if not finding["passed"]]
    assert not results["passed"]
    assert failed == {
        "rule": "expectations",
        "expectation": "expect_column_mean_to_be_between",
        "column": "price",
        "arguments": {"column": "price", "max_value": 5},
        "passed": False,
        "partitions": ["2013-01-31"],
        "observed": "1 of 1, such as 7.0",
    }


def test_nothing_personal_is_in_any_file(tmp_path: Path) -> None:
    written(tmp_path, name=CANARY, note=CANARY.upper(), price=99.0)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    texts = {path.name: path.read_text(encoding="utf-8").lower() for path in files}
    assert [name for name, text in texts.items() if CANARY in text] == []
    found = json.loads(texts["run-1.json"])["findings"]
    shown = {one["column"]: one["observed"] for one in found if not one["passed"]}
    assert (shown["name"], shown["note"]) == ("***", "1 of 1, such as ***")
    assert "99.0" in shown["price"]


def test_the_suite_can_be_read_by_great_expectations_and_names_rules_and_columns(
    tmp_path: Path,
) -> None:
    written(tmp_path)
    made = json.loads((tmp_path / "suite.json").read_text(encoding="utf-8"))
    suite = ExpectationSuite(**made)
    told = [(one.meta["rule"], one.meta["column"]) for one in suite.expectations if one.meta]
    assert len(told) == len(made["expectations"])
    assert ("allowed", "kind") in told
    assert ("key", "day, name") in told
    assert ("volume", "_rows") in told


def test_results_are_kept_of_so_many_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_RUNS", 3)
    for number in range(5):
        written(tmp_path, f"run-{number}")
    newest = ["run-2", "run-3", "run-4"]
    assert sorted(path.stem for path in (tmp_path / "results").iterdir()) == newest


def test_a_run_that_is_written_again_replaces_its_own(tmp_path: Path) -> None:
    written(tmp_path, price=99.0)
    written(tmp_path)
    (result,) = (tmp_path / "results").iterdir()
    assert json.loads(result.read_text(encoding="utf-8"))["passed"]


def test_an_ingest_keeps_what_was_found_below_the_reports(world: World) -> None:
    world.land(0)
    ingest(world.storage, world.dataset, [key(0)], "first")
    folder = world.root / "reports" / "expectations" / "customers"
    assert {path.name for path in folder.iterdir()} == {"results"}  # no `expectations`, no suite
    extra = SPEC.expectations[:1][0].model_copy(
        update={"kwargs": {"column": "x", "max_value": 1e9}}
    )
    asking = world.dataset.model_copy(update={"expectations": [extra]})
    ingest(world.storage, asking, [key(0)], "second")
    assert {path.name for path in folder.iterdir()} == {"suite.json", "results"}


def test_where_nothing_was_accepted_nothing_was_asked_and_the_run_is_listed(tmp_path: Path) -> None:
    path = write_results(Audit((), 0, 0), SPEC, Folder(tmp_path), "empty")
    results = json.loads(Path(path).read_text(encoding="utf-8"))
    assert (results["rows_audited"], results["rows"], results["findings"]) == (0, 0, [])
    assert not (tmp_path / "suite.json").exists()
