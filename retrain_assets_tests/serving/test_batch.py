"""`retrain score`: what any version predicts for stored features, into a file."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from click.testing import CliRunner, Result
from polars.testing import assert_frame_equal

from retrain_assets.cli import main
from retrain_assets.steps.features import rows
from retrain_assets.steps.monitoring.predict import predict_partitions
from retrain_assets_tests.projects import Project, document
from retrain_assets_tests.serving.site import COLUMNS, PLANS, SERVED, USAGE, Site, new_site
from retrain_assets_tests.world import DATASET, key


@pytest.fixture
def theirs(tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A project whose second version is held; it is the current folder."""
    datasets = (DATASET | {"columns": COLUMNS}, PLANS, USAGE)
    parts = [document("LandedDataset", found) for found in datasets]
    project.write(yaml.safe_dump_all([*parts, document("RetrainedModel", SERVED)]))
    site = new_site(tmp_path / "data")
    site.decide(*range(2, 14), action="hold")
    monkeypatch.setenv("RETRAIN_STORAGE", str(site.root))
    monkeypatch.chdir(tmp_path)
    monkeypatch.chdir(project.root)
    return site


def score(out: Path, *arguments: str) -> Result:
    days = ("--from", key(10), "--to", key(15), "--out", str(out), "--json")
    return CliRunner().invoke(main, ["score", "churn", *days, *arguments])


def test_any_version_predicts_a_range_a_batch_at_a_time(
    theirs: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BATCH_VALUES", 1)
    one, two = tmp_path / "1.parquet", tmp_path / "2.parquet"
    done = score(one)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["rows"], said["out"]) == (720, str(one))
    stored = theirs.storage.tables
    before = stored.version("churn/predictions")
    keys = [key(number) for number in range(16)]
    predict_partitions(theirs.state, keys, "test")
    live = stored.read("churn/predictions", [key(13), key(14), key(15)])
    first = pl.read_parquet(one)
    same = first.filter(pl.col("_landing_partition") >= key(13))
    assert_frame_equal(same, live.select(same.columns), check_row_order=False)
    assert first["in_sample"].sum() == 240
    assert stored.version("churn/predictions") == (before or 0) + 1
    assert score(two, "--version", "2").exit_code == 0
    second = pl.read_parquet(two)
    assert set(second["model_version"]) == {2}
    assert first["_key"].to_list() == second["_key"].to_list()
    assert first["prediction"].to_list() != second["prediction"].to_list()


def test_what_cannot_be_scored_is_refused_in_one_line(theirs: Site, tmp_path: Path) -> None:
    there = tmp_path / "there.parquet"
    there.touch()
    new = tmp_path / "new.parquet"
    for done, said in (
        (score(new, "--version", "7"), "churn has no version 7; versions with a decision: 1, 2"),
        (score(there), "name a new file"),
        (score(tmp_path / "no" / "x.parquet"), "in an existing folder"),
        (score(new, "--from", key(20), "--to", key(20)), "no features from 2020-01-21"),
    ):
        assert done.exit_code == 1
        assert said in done.stderr.splitlines()[-1]
    assert not new.exists()
