"""Starting over deletes what the demo stored, and never anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrain_assets.demo.run import ForeignDataError, start_over
from retrain_assets.stores.storage import Storage


def filled(root: Path, *files: str) -> Storage:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", encoding="utf-8")
    return Storage(root)


DEMO = ("landing/flights/a.parquet", "delta/flight_delay/ledger/0.json", "mlflow.db", "dagster/x")


def test_what_the_demo_stored_goes_and_the_rest_stays(tmp_path: Path) -> None:
    start_over(filled(tmp_path, *DEMO, "README.md", "thesis/chapter.txt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "thesis"]


def test_a_root_with_other_models_is_left_alone(tmp_path: Path) -> None:
    storage = filled(tmp_path, *DEMO, "delta/churn/ledger/0.json")
    with pytest.raises(ForeignDataError, match="churn"):
        start_over(storage)
    assert all((tmp_path / name).exists() for name in DEMO)


def test_an_empty_root_is_no_mistake(tmp_path: Path) -> None:
    start_over(Storage(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
