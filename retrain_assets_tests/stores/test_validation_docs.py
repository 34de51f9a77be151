"""What was asked and found is kept for people: safe to open, without secrets, and not for ever."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from great_expectations import ExpectationSuite

from retrain_assets.domain.rules import PARTITION, dataset_schema
from retrain_assets.domain.suite import figures
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.ingest import ingest
from retrain_assets.stores import validation_docs
from retrain_assets.stores.expectations import Audit, audit
from retrain_assets.stores.validation_docs import keep
from retrain_assets_tests.world import World, key

SCRIPT, CANARY = "<script>document.title='run'</script>", "canary-7391"
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


def kept(folder: Path, run_id: str = "run-1", **changes: Any) -> str:
    frame = rows(**changes)
    page = keep(audit(frame, figures(frame, SPEC), SPEC), SPEC, folder, run_id)
    return page.read_text(encoding="utf-8")


class Seen(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [str(value) for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def test_the_page_of_a_run_says_what_was_asked_and_what_failed_first(tmp_path: Path) -> None:
    seen = Seen(kept(tmp_path, price=7.0))
    cells = " ".join(seen.text.split())
    failed = cells.index("✗ failed price expectations column mean to be between max_value: 5")
    assert "2013-01-31 1 of 1, such as 7.0" in cells[failed:]
    assert failed < cells.index("✓")
    assert seen.links == ["index.html"]
    index = Seen((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert index.links == ["suite.json", "run-1.html"]
    assert "✗ failed" in index.text


def test_what_a_value_holds_is_text_and_nothing_else(tmp_path: Path) -> None:
    seen = Seen(kept(tmp_path, kind=SCRIPT))
    assert SCRIPT[:30] in seen.text
    assert "<b>&" in seen.text
    assert seen.tags == {
        *("html", "head", "meta", "title", "style", "body", "h1", "p"),
        *("a", "table", "tr", "th", "td", "span", "code"),
    }


def test_no_page_asks_for_anything_from_elsewhere(tmp_path: Path) -> None:
    assert "http" not in kept(tmp_path).replace("http-equiv", "")
    assert "default-src 'none'" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_nothing_personal_is_in_any_file(tmp_path: Path) -> None:
    kept(tmp_path, name=CANARY, note=CANARY.upper(), price=99.0)
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
    kept(tmp_path)
    made = json.loads((tmp_path / "suite.json").read_text(encoding="utf-8"))
    suite = ExpectationSuite(**made)
    told = [(one.meta["rule"], one.meta["column"]) for one in suite.expectations if one.meta]
    assert len(told) == len(made["expectations"])
    assert ("allowed", "kind") in told
    assert ("key", "day, name") in told
    assert ("volume", "_rows") in told


def test_results_are_kept_of_so_many_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation_docs, "KEPT_RUNS", 3)
    for number in range(5):
        kept(tmp_path, f"run-{number}")
    newest = ["run-2", "run-3", "run-4"]
    assert sorted(path.stem for path in (tmp_path / "results").iterdir()) == newest
    assert sorted(path.stem for path in tmp_path.glob("*.html")) == ["index", *newest]
    index = Seen((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert index.links[1:] == ["run-4.html", "run-3.html", "run-2.html"]


def test_a_run_that_is_written_again_replaces_its_own(tmp_path: Path) -> None:
    kept(tmp_path, price=99.0)
    kept(tmp_path)
    (result,) = (tmp_path / "results").iterdir()
    assert json.loads(result.read_text(encoding="utf-8"))["passed"]


def test_an_ingest_keeps_what_was_found_below_the_reports(world: World) -> None:
    world.land(0)
    ingest(world.storage, world.dataset, [key(0)], "first")
    folder = world.root / "reports" / "expectations" / "customers"
    assert {path.name for path in folder.iterdir()} == {
        *("suite.json", "results", "first.html", "index.html"),
    }


def test_where_nothing_was_accepted_nothing_was_asked_and_the_run_is_listed(tmp_path: Path) -> None:
    page = keep(Audit((), 0, 0), SPEC, tmp_path, "empty")
    assert "0 of 0 accepted rows" in page.read_text(encoding="utf-8")
    assert not (tmp_path / "suite.json").exists()
