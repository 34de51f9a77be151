"""The same retraining as a plain script: what the platform is compared with.

It reads the same landing files, keeps the same contract, stores the same tables and registers the
same two models, by polars, deltalake, scikit-learn and MLflow alone. Not here: Dagster, Great
Expectations, anything of `retrain_assets`; and so no ledger, no partial rerun, no late file.

    python benchmarks/bare.py LANDING STORAGE SPECS

prints the seconds of its imports as one line of JSON, and those of everything as another.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import polars as pl
import skops.io  # noqa: F401 what MLflow imports when it logs
import yaml
from deltalake import write_deltalake
from plain import DAY, TARGET, build_features, read, split
from scipy.stats import t
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

IMPORTS_CPU_SECONDS = sum(os.times()[:4])
STARTED = time.perf_counter()

CATEGORIES = ["carrier", "origin", "dest"]
BINS, FLOOR = 10, 1e-4
TRUSTED = [
    "functools.partial",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils.validation.check_array",
]


def main(landing: Path, storage: Path, specs: Path) -> bool:
    """Read, check, join, summarise, train, compare; whether the model is promoted."""
    documents = yaml.safe_load_all(specs.read_text(encoding="utf-8"))
    found = {document["attributes"]["name"]: document["attributes"] for document in documents}
    tables = {
        name: checked(read(landing, found[name]), found[name], storage)
        for name in ("flights", "weather", "planes")
    }
    model = found["flight_delay"]
    features = build_features(tables, model)
    store(features, storage, "features")
    days = features[DAY].unique().sort().to_list()
    holdout, current = model["windows"]["holdout"], days[-model["windows"]["current"] :]
    train = days[-model["windows"]["train"] - holdout : -holdout]
    profile = build_profile(features, train)
    store(profile, storage, "profile")
    store(drift(profile, train, current), storage, "drift")
    labelled = features.drop_nulls(TARGET).sort(DAY, "_key")
    return retrain(labelled, train, days[-holdout:], model, storage)


def checked(rows: pl.DataFrame, spec: dict[str, Any], storage: Path) -> pl.DataFrame:
    """Split rows by the contract, store both parts, and give back what is accepted."""
    accepted, refused = split(rows, spec)
    store(refused, storage, f"{spec['name']}_quarantine")
    store(accepted, storage, spec["name"])
    return accepted


def store(rows: pl.DataFrame, storage: Path, name: str) -> None:
    """Replace a Delta table."""
    write_deltalake(storage / "delta" / name, rows, mode="overwrite")


def build_profile(features: pl.DataFrame, train: Sequence[str]) -> pl.DataFrame:
    """Rows by day, column and bin: deciles of the training window, or the categories."""
    reference = features.filter(pl.col(DAY).is_in(train))
    counts = []
    for name in features.columns[2:]:
        binned = pl.col(name)
        if name not in CATEGORIES:
            known = reference[name].drop_nulls().cast(pl.Float64).to_numpy()
            deciles = np.unique(np.quantile(known, np.arange(1, BINS) / BINS))
            binned = pl.col(name).bin_intervals(deciles.tolist(), labels=False, right_closed=True)
        counted = features.group_by(DAY, binned.cast(pl.String).alias("bin")).len("rows")
        counts.append(counted.select(DAY, pl.lit(name).alias("column"), "bin", "rows"))
    return pl.concat(counts)


def drift(profile: pl.DataFrame, train: Sequence[str], current: Sequence[str]) -> pl.DataFrame:
    """Population stability index of each column, of the newest days against the training ones."""
    filled = profile.drop_nulls("bin")

    def share(days: Sequence[str]) -> pl.Expr:
        return pl.col("rows").filter(pl.col(DAY).is_in(days)).sum()

    by_bin = filled.group_by("column", "bin").agg(before=share(train), now=share(current))
    shares = by_bin.with_columns(
        (pl.col("before", "now") / pl.col("before", "now").sum().over("column")).clip(FLOOR)
    )
    psi = (pl.col("now") - pl.col("before")) * (pl.col("now") / pl.col("before")).log()
    return shares.group_by("column").agg(psi=psi.sum()).sort("psi", descending=True)


def retrain(
    labelled: pl.DataFrame,
    train: Sequence[str],
    holdout: Sequence[str],
    model: dict[str, Any],
    storage: Path,
) -> bool:
    """Fit before the holdout, compare with the trivial prediction, fit again through the end."""
    prepare_mlflow(storage)
    judged = labelled.filter(pl.col(DAY).is_in(holdout))
    on = pl.col(DAY).is_in(train)
    confidence, share = model["gate"]["confidence"], labelled.filter(on)[TARGET].to_numpy().mean()
    gated = fit(labelled, train, model)
    metrics = evaluate(gated, judged, share, confidence)
    register(gated, model, metrics, "candidate")
    promoted = metrics["gain_low"] > 0
    if promoted:
        refit = fit(labelled, [*train, *holdout][-len(train) :], model)
        register(refit, model, evaluate(refit, judged, share, confidence), "production")
    return promoted


def fit(labelled: pl.DataFrame, days: Sequence[str], model: dict[str, Any]) -> Pipeline:
    """The model fitted on some days."""
    rows = labelled.filter(pl.col(DAY).is_in(days))
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    pipeline = make_pipeline(
        make_column_transformer((encoder, CATEGORIES), remainder="passthrough"),
        HistGradientBoostingClassifier(
            categorical_features=list(range(len(CATEGORIES))),
            random_state=model.get("seed", 0),
            **model["estimator"]["params"],
        ),
    )
    with threadpool_limits(model["estimator"].get("threads", 1)):
        pipeline.fit(rows.drop(DAY, "_key", TARGET), rows[TARGET].to_numpy())
    return pipeline


def evaluate(
    pipeline: Pipeline, judged: pl.DataFrame, share: float, confidence: float
) -> dict[str, float]:
    """Log loss beside that of the trivial prediction, and an interval: a jackknife over days."""
    output = pipeline.predict_proba(judged.drop(DAY, "_key", TARGET))[:, 1].clip(1e-15, 1 - 1e-15)
    labels = judged[TARGET].to_numpy()
    gains = np.where(labels == 1, np.log(output / share), np.log((1 - output) / (1 - share)))
    by_day = (
        pl.DataFrame({DAY: judged[DAY], "gain": gains}).group_by(DAY).agg(pl.sum("gain"), pl.len())
    )
    gain, rows = by_day["gain"].to_numpy(), by_day["len"].to_numpy()
    left_out = (gain.sum() - gain) / (rows.sum() - rows)
    days = len(gain)
    error = np.sqrt((days - 1) / days * np.sum((left_out - left_out.mean()) ** 2))
    mean = gain.sum() / rows.sum()
    return {
        "log_loss": float(log_loss(labels, output)),
        "gain": float(mean),
        "gain_low": float(mean - t.ppf((1 + confidence) / 2, days - 1) * error),
    }


def prepare_mlflow(storage: Path) -> None:
    """A database of its own, with artifacts beside it."""
    mlflow.set_tracking_uri(f"sqlite:///{storage}/mlflow.db")
    mlflow.create_experiment("flight_delay", artifact_location=(storage / "artifacts").as_uri())
    mlflow.set_experiment("flight_delay")


def register(
    pipeline: Pipeline, model: dict[str, Any], metrics: dict[str, float], alias: str
) -> None:
    """Log a model as skops, register it and give it its alias."""
    with mlflow.start_run():
        mlflow.log_params(model["estimator"]["params"])
        mlflow.log_metrics(metrics)
        logged = mlflow.sklearn.log_model(
            pipeline,
            name="model",
            serialization_format="skops",
            skops_trusted_types=TRUSTED,
            pip_requirements=["scikit-learn", "skops", "polars"],
            registered_model_name="flight_delay",
        )
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("flight_delay", alias, logged.registered_model_version)


if __name__ == "__main__":
    promoted = main(*(Path(argument).resolve() for argument in sys.argv[1:4]))
    print(json.dumps({"imports": {"cpu_seconds": round(IMPORTS_CPU_SECONDS, 3)}}))
    spent = {
        "promoted": promoted,
        "cpu_seconds": round(sum(os.times()[:4]), 3),
        "wall_seconds_after_imports": round(time.perf_counter() - STARTED, 3),
    }
    print(json.dumps(spent))
