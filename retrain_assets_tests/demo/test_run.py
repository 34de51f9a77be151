"""Starting over deletes what the demo stored, and never anything else."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from retrain_assets.demo import run
from retrain_assets.demo.run import ForeignDataError, run_demo, start_over
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


def test_the_demo_closes_dagsters_instance_also_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, closed = list[dg.DagsterInstance](), list[dg.DagsterInstance]()
    dispose = dg.DagsterInstance.dispose

    def fail(storage: Storage, *_: object) -> None:
        places = str(storage.root), str(storage.work), storage.mlflow_uri, str(tmp_path)
        opened.append(run._open_daemon(*places).instance)
        raise ValueError("a sensor failed")

    def close(instance: dg.DagsterInstance) -> None:
        closed.append(instance)
        dispose(instance)

    monkeypatch.setattr(run, "models", dict)
    monkeypatch.setattr(run, "settle_deliveries", fail)
    monkeypatch.setattr(dg.DagsterInstance, "dispose", close)
    with pytest.raises(ValueError, match="a sensor failed"):
        run_demo(Storage(tmp_path), tmp_path, lambda _: None, fresh=False)
    assert closed == opened != []
    assert run._open_daemon.cache_info().currsize == 0
