"""What is exported of a member predicts the same by its library alone, as the README tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import polars as pl
import pytest
import xgboost

from retrain_assets.domain.model.estimator import predict
from retrain_assets.steps.decision import export
from retrain_assets_tests.domain.model.test_families import KINDS, fitted, model, rows

__all__ = ["rows"]  # a fixture


def read_matrix(folder: Path, features: pl.DataFrame) -> np.ndarray:
    """The matrix that a member takes, made from `features.json` alone."""
    facts = json.loads((folder / "features.json").read_text())
    codes = {
        name: {text: place for place, text in enumerate(texts)}
        for name, texts in facts["categories"].items()
    }
    columns = [
        [codes[name].get(item, np.nan) if name in codes else item for item in features[name]]
        for name in facts["columns"]
    ]
    return np.array(columns, dtype=float).T


def predict_lightgbm(file: Path, matrix: np.ndarray, _texts: list[int]) -> Any:
    return lightgbm.Booster(model_file=file).predict(matrix)


def predict_xgboost(file: Path, matrix: np.ndarray, _texts: list[int]) -> Any:
    booster = xgboost.Booster(model_file=file)
    return booster.predict(xgboost.DMatrix(matrix, feature_types=booster.feature_types))


def predict_catboost(file: Path, matrix: np.ndarray, texts: list[int]) -> Any:
    numbers = [place for place in range(matrix.shape[1]) if place not in texts]
    inputs: list[Any] = [
        [*row[numbers], *(str(int(-1 if np.isnan(code) else code)) for code in row[texts])]
        for row in matrix
    ]
    booster = catboost.CatBoost().load_model(str(file))
    if booster.get_param("loss_function") == "RMSE":
        return booster.predict(inputs)
    values = booster.predict(inputs, prediction_type="Probability")
    return values[:, 1] if values.shape[1] == 2 else values


PREDICT = {
    "lightgbm": predict_lightgbm,
    "xgboost": predict_xgboost,
    "catboost": predict_catboost,
}


@pytest.mark.parametrize(("path", "kind"), KINDS)
def test_the_native_file_of_a_member_predicts_by_its_library_alone(
    path: str, kind: Any, rows: pl.DataFrame, tmp_path: Path
) -> None:
    library = path.partition(".")[0]
    rounds = "iterations" if library == "catboost" else "n_estimators"
    pipeline = fitted(model(kind, **{"class": path, "params": {rounds: 20}}), rows).pipeline
    export._export_member(3, pipeline, tmp_path)
    unseen = rows.with_columns(plan=pl.when(pl.col("x") < 1).then("plan").otherwise(pl.lit("new")))
    (file,) = (item for item in (tmp_path / "3").iterdir() if item.suffix != ".json")
    facts = json.loads((tmp_path / "3" / "features.json").read_text())
    texts = [facts["columns"].index(name) for name in facts["categories"]]
    for frame in (rows, unseen):
        matrix = read_matrix(tmp_path / "3", frame)
        found = PREDICT[library](file, matrix, texts)
        expected = predict(pipeline, kind, frame)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
