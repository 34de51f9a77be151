"""A damaged model file is refused, or ends the process that tries it, and nothing later."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import skops.io
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from retrain_assets.domain.model.estimator import fit, predict
from retrain_assets.domain.model.families import cbm
from retrain_assets.domain.model.families.catboost import CatBoost
from retrain_assets.domain.model.families.verify import verify_trees
from retrain_assets.domain.model.families.xgboost import XGBoost
from retrain_assets.specs.model import ModelSpec
from retrain_assets.stores.registry.model_check import write_example
from retrain_assets.stores.registry.model_file import digest
from retrain_assets_tests.world import MODEL, check_file

ESTIMATORS: dict[str, dict[str, Any]] = {
    "lightgbm.LGBMClassifier": {"n_estimators": 6},
    "xgboost.XGBClassifier": {"n_estimators": 6, "max_depth": 3},
    "catboost.CatBoostClassifier": {"iterations": 6, "depth": 3},
    "sklearn.ensemble.HistGradientBoostingClassifier": {"max_iter": 6},
    "sklearn.ensemble.RandomForestClassifier": {"n_estimators": 6, "max_depth": 4},
}
ROWS, FEW, MANY = 600, 8, 1_000


def write_model(path: str, folder: Path) -> None:
    """Write a small model, rows that it must predict as before, and odd rows."""
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {"x": random.normal(size=ROWS), "plan": random.choice(["a", "b", "c", "d"], ROWS)}
    ).with_columns(pl.when(pl.col("x").abs() < 2).then("x"))
    left = pl.Series((frame["x"].fill_null(0) + random.normal(size=ROWS) > 0).cast(pl.Int64))
    estimator = {"class": path, "params": ESTIMATORS[path]}
    spec = ModelSpec.model_validate(MODEL | {"estimator": estimator})
    pipeline = fit(spec, frame, left, pl.Series(["d"] * ROWS)).pipeline
    (folder / "model.skops").write_bytes(skops.io.dumps(pipeline))
    write_example(folder / "example.parquet", frame[:5], predict(pipeline, "binary", frame[:5]))
    # A forest refuses what a 32-bit float cannot hold, whatever its file is.
    far = [1e30, -1e30] * 2 if "Forest" in path else [np.inf, -np.inf, 1e300, -1e300]
    odd = [None, *far, 0.0, *random.normal(0, 10, 994)]
    plans = random.choice(["a", "b", "c", "d", "never seen"], len(odd))
    pl.DataFrame({"x": odd, "plan": plans}).write_parquet(folder / "rows.parquet")


def try_damaged(folder: Path, first: int, last: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "retrain_assets_tests.stores.registry.damage", str(folder)]
    command += [str(first), str(last)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def judge(results: list[dict[str, Any]]) -> None:
    for result in results:
        passed = "\npredicted" in result["text"]
        # It is refused with a sentence, or crashes, or predicts any row: nothing in between.
        assert not (result["code"] == 0 and not passed), result
        assert "loaded, and predicted 5" not in result["text"] or passed, result
        assert result["code"] != 1 or result["text"].strip(), result
    assert any(result["code"] == 1 for result in results)


@pytest.mark.parametrize("path", ESTIMATORS)
def test_a_damaged_native_file_is_refused(path: str, tmp_path: Path) -> None:
    write_model(path, tmp_path)
    results = try_damaged(tmp_path, 0, FEW)
    assert len(results) == FEW
    judge(results)


@pytest.mark.soak
@pytest.mark.parametrize("path", ESTIMATORS)
def test_many_damaged_native_files_are_refused(path: str, tmp_path: Path) -> None:
    write_model(path, tmp_path)
    results = try_damaged(tmp_path, FEW, MANY)
    judge(results)
    assert any(result["text"].endswith("\npredicted\n") for result in results)


def _enter_the_root_again(stored: Any) -> None:
    stored["trees"][0]["left_children"][1] = 0
    stored["trees"][0]["parents"][0] = 1


def _join_children(stored: Any) -> None:
    stored["trees"][0]["right_children"][0] = stored["trees"][0]["left_children"][0]


def _lose_a_child(stored: Any) -> None:
    stored["trees"][0]["right_children"][0] = -1


def _add_elsewhere(stored: Any) -> None:
    stored["tree_info"][0] = 7


@pytest.mark.parametrize(
    "damage", [_enter_the_root_again, _join_children, _lose_a_child, _add_elsewhere]
)
def test_what_xgboost_does_not_check_itself_is_refused(damage: Any) -> None:
    import xgboost

    random = np.random.default_rng(0)
    rows = random.normal(size=(200, 2))
    model = xgboost.XGBClassifier(n_estimators=2, max_depth=2, n_jobs=1)
    booster = model.fit(rows, rows.sum(axis=1) > 0).get_booster()
    stored = json.loads(booster.save_raw("json"))
    damage(stored["learner"]["gradient_booster"]["model"])
    family = XGBoost()
    damaged = family.load(json.dumps(stored).encode(), "xgboost.XGBClassifier")
    assert [*family.list_split_features(booster)]
    with pytest.raises(ValueError, match="a tree"):
        [*family.list_split_features(damaged)]


def fit_catboost(policy: str) -> bytes:
    import catboost

    random = np.random.default_rng(0)
    numbers = random.normal(size=(300, 1)).astype(np.float32)
    codes = random.integers(0, 9, 300)
    texts = np.array([[b"%d" % code] for code in codes], dtype=object)
    data = catboost.FeaturesData(num_feature_data=numbers, cat_feature_data=texts)
    model = catboost.CatBoostClassifier(
        iterations=3, depth=2, grow_policy=policy, allow_writing_files=False, verbose=False
    )
    model.fit(catboost.Pool(data, numbers[:, 0] + codes % 3 > 1))
    return CatBoost().dump(model)


@pytest.mark.parametrize(
    ("policy", "field", "value", "message"),
    [
        ("SymmetricTree", 1, 999, "a tree asks for a test"),
        ("SymmetricTree", 2, 31, "the trees are not one behind the other"),
        ("SymmetricTree", 3, 1, "the trees are not one behind the other"),
        ("SymmetricTree", 8, None, "the trees do not have the 11 values"),
        ("Depthwise", 10, 999, "a node of a tree is not above its children"),
        ("Depthwise", 11, 999, "a leaf is not one of the 11 values"),
    ],
)
def test_trees_that_catboost_does_not_check_are_refused(
    policy: str, field: int, value: int | None, message: str
) -> None:
    content = fit_catboost(policy)
    start = 8 + int.from_bytes(content[8:12], "little")
    place = cbm._Table(content, start).table(1)._follow(field)
    damaged = bytearray(content)
    if value is None:
        damaged[place] -= 1  # the length of the list
    else:
        damaged[place + 4 : place + 6] = value.to_bytes(2, "little")
    with pytest.raises(ValueError, match=message):
        CatBoost().load(bytes(damaged), "catboost.CatBoostClassifier")


@pytest.mark.parametrize("value", [0x20001, 2**31])
def test_a_category_without_its_statistics_is_refused(value: int) -> None:
    content = fit_catboost("SymmetricTree")
    *_, table = cbm._list_tables(content[8 + int.from_bytes(content[4:8], "little") :])
    buckets = table.array(1, "u1").tobytes()
    start, last = (
        content.index(buckets),
        max(range(0, len(buckets), 12), key=lambda n: buckets[n + 8]),
    )
    place = start + last + 8
    damaged = content[:place] + value.to_bytes(4, "little") + content[place + 4 :]
    with pytest.raises(ValueError, match="a category has no statistics"):
        CatBoost().load(damaged, "catboost.CatBoostClassifier")
    full = content.replace(b"\xff" * 8, b"\x01" * 8)
    with pytest.raises(ValueError, match="no empty place"):
        CatBoost().load(full, "catboost.CatBoostClassifier")
    base = table.table(0)
    entry = content.index(base.content) + base._fields + 6  # where the type of statistics is
    damaged = content[:entry] + b"\xff\xff" + content[entry + 2 :]
    with pytest.raises(ValueError, match="the file points out of itself"):
        CatBoost().load(damaged, "catboost.CatBoostClassifier")


def _leave_the_nodes(model: Any) -> None:
    model._predictors[0][0].nodes["left"][0] = 9_999


def _walk_in_a_circle(model: Any) -> None:
    model._predictors[0][0].nodes["right"][0] = 0


def _ask_beyond_the_row(model: Any) -> None:
    model._predictors[0][0].nodes["feature_idx"][0] = 7


def _leave_a_tree(model: Any) -> None:
    model.estimators_[1].tree_.children_left[0] = 9_999


def _follow_a_leaf(model: Any) -> None:
    model.estimators_[1].tree_.children_left[-1] = -7


def _leave_the_rows(model: Any) -> None:
    np.asarray(model._tree.get_arrays()[1])[3] = 9_999


@pytest.mark.parametrize(
    ("model", "damage"),
    [
        *((HistGradientBoostingClassifier(max_iter=2), damage) for damage in (_leave_the_nodes,
          _walk_in_a_circle, _ask_beyond_the_row)),
        (RandomForestClassifier(2), _leave_a_tree),
        (RandomForestClassifier(2), _follow_a_leaf),
        (KNeighborsClassifier(), _leave_the_rows),
    ],
)  # fmt: skip
def test_what_scikit_learn_does_not_check_itself_is_refused(model: Any, damage: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 2))
    pipeline = make_pipeline(VotingClassifier([("a", model)])).fit(rows, rows.sum(axis=1) > 0)
    verify_trees(pipeline)
    damage(pipeline[-1].estimators_[0])
    with pytest.raises(ValueError, match="a tree"):
        verify_trees(pipeline)


def test_a_crash_of_the_process_that_tries_a_file_is_told(tmp_path: Path) -> None:
    write_model("lightgbm.LGBMClassifier", tmp_path)
    path = tmp_path / "model.skops"
    pipeline = skops.io.loads(path.read_bytes(), trusted=skops.io.get_untrusted_types(file=path))
    text = pipeline[-1].native_.decode()
    first = text.index("left_child=") + len("left_child=")
    pipeline[-1].native_ = f"{text[:first]}123456789{text[text.index(' ', first) :]}".encode()
    path.write_bytes(skops.io.dumps(pipeline))
    arguments = digest(path.read_bytes()), tmp_path / "example.parquet", "binary"
    result = check_file(path, *arguments)
    assert not result.passed
    crash = r"its process crashed by signal (6|11): the model file is damaged, restore it"
    assert re.fullmatch(crash, result.detail)
