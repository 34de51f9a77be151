"""Build a version of each library again, bit for bit, on the flights of 60 days or a multiple.

    python benchmarks/reproduce.py [--scale 10] [--threads 2]

The flights land, are ingested and become features as shipped; then each library fits the demo's
first model with its usual settings, a version is registered, and `retrain reproduce` builds it
again. Copies of a flight differ in the flight's number. Not here: two machines.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import polars as pl
from retrain import land

from retrain_assets.demo.flights import Flights
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.yaml import load_strictly
from retrain_assets.steps.data.ingest import ingest
from retrain_assets.steps.decision.train import fit_model, register
from retrain_assets.steps.features.build import build_features
from retrain_assets.steps.inspect.reproduce import reproduce
from retrain_assets.steps.state import ModelState, code_digest, lock_digest
from retrain_assets.stores.registry.model_file import prepare_threads
from retrain_assets.stores.registry.registry import new_run
from retrain_assets.stores.storage import Storage

RUN, MODEL = "benchmark", "flight_delay"
ESTIMATORS = {
    "LightGBM": {"class": "lightgbm.LGBMClassifier"},
    "XGBoost": {"class": "xgboost.XGBClassifier"},
    "CatBoost": {"class": "catboost.CatBoostClassifier", "params": {"iterations": 200}},
    "HistGradientBoosting": {"class": "sklearn.ensemble.HistGradientBoostingClassifier"},
}


def prepare(
    root: Path, days: list[str], scale: int
) -> tuple[Storage, ModelSpec, list[DatasetSpec]]:
    """Land and ingest the flights, and build the features."""
    land(root, scale)
    documents = [item.value["attributes"] for item in load_strictly(root / "specs.yaml")]
    specs = {item["name"]: item for item in documents}
    model = ModelSpec.model_validate(specs[MODEL])
    names = (model.dataset, *model.lookups)
    datasets = [DatasetSpec.model_validate(specs[name]) for name in names]
    storage = Storage(root)
    for dataset in datasets:
        ingest(storage, dataset, ["all"] if dataset.partition.by == "none" else days, RUN)
    build_features(make_state(storage, model, datasets), days, RUN)
    return storage, model, datasets


def make_state(storage: Storage, spec: ModelSpec, datasets: list[DatasetSpec]) -> ModelState:
    """Return the read side of the model."""
    lookups = {dataset.name: dataset for dataset in datasets[1:]}
    return Model(spec, datasets[0], lookups).state(storage)


def main() -> None:
    """Print a line for each library."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--days", type=int, default=60)
    options = parser.parse_args()
    prepare_threads()
    days = [*Flights.load().days[: options.days]]
    with TemporaryDirectory() as folder:
        storage, spec, datasets = prepare(Path(folder), days, options.scale)
        features = storage.tables.scan(f"{MODEL}/features")
        rows = features.drop_nulls(spec.target.column).select(pl.len()).collect().item()
        for title, estimator in ESTIMATORS.items():
            changed = spec.model_dump(by_alias=True) | {
                "estimator": estimator | {"threads": options.threads}
            }
            state = make_state(storage, ModelSpec.model_validate(changed), datasets)
            start = process_time()
            trained = fit_model(state, days)
            seconds = process_time() - start
            tags = {
                "features_version": str(state.tables.version(state.table("features"))),
                "spec_digest": state.recipe,
                "code_digest": code_digest(state.spec),
                "lock_digest": lock_digest(),
            }
            version = register(state, new_run(state.registry), trained, tags=tags, metrics={})
            result = reproduce(state, version.version)
            print(f"{title}: {rows:,} rows, fit {seconds:.1f} s, {result}", flush=True)


if __name__ == "__main__":
    main()
