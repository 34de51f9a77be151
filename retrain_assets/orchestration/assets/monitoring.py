"""The assets that watch a model: features, profile, predictions, monitoring.

Not here: how any of them is computed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.observations import P_VALUE, PERFORMANCE, VOLUME
from retrain_assets.domain.drift.training_match import FOREIGN, NULLS
from retrain_assets.domain.features.lookup_partitions import LookupPartitions
from retrain_assets.orchestration import checks
from retrain_assets.orchestration.metadata import (
    MODEL_TAG,
    ROWS,
    add_series,
    describe_table,
    draw_pictures,
)
from retrain_assets.orchestration.partitions import (
    looking_back,
    partitions_definition,
    requested_partitions,
)
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.features.build import (
    BuildResult,
    FeaturesResult,
    build_features,
    build_profiles,
)
from retrain_assets.steps.monitoring.monitor import monitor
from retrain_assets.steps.monitoring.predict import predict_partitions
from retrain_assets.steps.monitoring.watch import act, watch
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.storage import Storage

ALERTS = {
    "no_data_drift": ("feature", "The features of the window are distributed as in training."),
    "no_prediction_drift": ("prediction", "The output is distributed as it was on the holdout."),
    "no_target_drift": ("target", "The target of the window is distributed as in training."),
    "performance_holds": ("performance", "The realised metric is within `triggers.performance`."),
}
NOT_WORSE = "not_worse_than_before"


@dataclass(frozen=True)
class Model:
    """A model's spec beside those of its datasets: all that its assets are made from."""

    spec: ModelSpec
    dataset: DatasetSpec
    lookups: Mapping[str, DatasetSpec]

    def state(self, storage: Storage) -> ModelState:
        """The model's read side in a storage."""
        registry = storage.registry(self.spec.name)
        return ModelState(self.spec, self.dataset, self.lookups, storage.tables, registry)

    def key(self, name: str) -> dg.AssetKey:
        """The key of one of the model's assets."""
        return dg.AssetKey([self.spec.name, name])

    def asset(self, name: str, description: str, *kinds: str) -> dict[str, Any]:
        """What all assets of the model share."""
        return {
            "key": self.key(name),
            "group_name": self.spec.name,
            "owners": self.spec.owners,
            "tags": {MODEL_TAG: self.spec.name, "retrain/kind": self.spec.target.kind},
            "description": description,
            "kinds": set(kinds),
        }

    def partitioned(self, name: str, description: str, kind: str = "polars") -> dict[str, Any]:
        """What all partitioned assets of the model share."""
        return {
            **self.asset(name, description, kind),
            "partitions_def": partitions_definition(self.dataset.partition),
            "backfill_policy": dg.BackfillPolicy.single_run(),
            "pool": f"{self.spec.name}_monitor",
        }


def monitor_assets(model: Model) -> list[dg.AssetsDefinition]:
    """`<m>/features`, `<m>/profile`, `<m>/predictions`, `<m>/monitoring`."""
    return [_features(model), _profile(model), _predictions(model), _monitoring(model)]


def _features(model: Model) -> dg.AssetsDefinition:
    checked = {
        "features_match_training": "Columns are those production was trained on, shares of nulls "
        f"within {NULLS:g} of training, at most {FOREIGN:.0%} of values beyond its ranges and "
        "categories; no column is empty or constant.",
        "target_balance_within_range": "The share of positives is within `target.positive_share`.",
        "outlier_share_within_range": "No more rows than `outliers.max_share` lie far out of what "
        "production was trained on.",
    }

    @dg.asset(
        **model.partitioned("features", "Validated features and target, as known when predicting."),
        deps=_dataset_deps(model),
        check_specs=[
            checks.spec(model.key("features"), name, text) for name, text in checked.items()
        ],
    )
    def features(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        state = model.state(storage.open())
        built = build_features(state, requested_partitions(context), context.run_id)
        found = {
            "features_match_training": (built.mismatches, ""),
            "target_balance_within_range": (_unbalanced(model, built.summary), ""),
            "outlier_share_within_range": _outlying(model, built.summary),
        }
        add_series(context, model.key("features"), built.summary.rename({"rows": ROWS}))
        yield _materialized(state, "features", built)
        for name, (cases, said) in found.items():
            key = model.key("features")
            yield checks.result(name, key, cases, severity=checks.WARN, message=said)

    return features


def _profile(model: Model) -> dg.AssetsDefinition:
    @dg.asset(
        **model.partitioned(
            "profile", "A small mergeable summary of each column, a row a partition."
        ),
        deps=[model.key("features")],
    )
    def profile(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> dg.MaterializeResult[None]:
        state = model.state(storage.open())
        built = build_profiles(state, requested_partitions(context), context.run_id)
        return _materialized(state, "profile", built)

    return profile


def _predictions(model: Model) -> dg.AssetsDefinition:
    @dg.asset(
        **model.partitioned(
            "predictions",
            "What the version in production when the partition arrived predicted, with the label.",
            "scikitlearn",
        ),
        deps=[model.key("features")],
    )
    def predictions(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> dg.MaterializeResult[None]:
        opened, asked = storage.open(), requested_partitions(context)
        state = model.state(opened)
        built = predict_partitions(state, asked, context.run_id)
        rows = built.rows.group_by(PARTITION).agg(
            pl.len().alias(ROWS), pl.col("model_version").first()
        )
        add_series(context, model.key("predictions"), rows)
        return _materialized(state, "predictions", built)

    return predictions


def _monitoring(model: Model) -> dg.AssetsDefinition:
    @dg.asset(
        **model.partitioned(
            "monitoring", "Drift and realised performance of each partition's window."
        ),
        deps=[model.key("profile"), model.key("predictions")],
        check_specs=[
            *(
                checks.spec(model.key("monitoring"), name, text)
                for name, (_, text) in ALERTS.items()
            ),
            checks.spec(
                model.key("monitoring"),
                NOT_WORSE,
                "Production is not shown to be worse than the version before it since it came.",
            ),
        ],
    )
    def monitoring(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        state = model.state(storage.open())
        built = monitor(state, requested_partitions(context), context.run_id)
        watched = built.rows["model_version"].is_not_null().any()
        add_series(context, model.key("monitoring"), _watched(built.rows))
        drawn = draw_pictures(context, state, built.partitions[-1]) if watched else {}
        yield _materialized(state, "monitoring", built, **drawn)
        for name, (role, _) in ALERTS.items():
            alerts = _alerts(built.rows, role)
            said = f"{len(alerts)} alerts in {len(built.partitions)} partitions"
            yield checks.result(
                name, model.key("monitoring"), alerts, severity=checks.WARN, message=said
            )
        yield _watch(model, state, context)

    return monitoring


def _watch(
    model: Model, state: ModelState, context: dg.AssetExecutionContext
) -> dg.AssetCheckResult:
    """Hold production against the version before it; go back to that where the YAML says so."""
    found = watch(state, context.run_id)
    row = act(state, found)
    said = found.said if found else "there is no version before it to compare with, or `watch: off`"
    said += f": rolled back to version {row.version}" if row else ""
    passed, key = not (found and found.is_worse), model.key("monitoring")
    return checks.result(NOT_WORSE, key, [], severity=checks.WARN, message=said, passed=passed)


def _dataset_deps(model: Model) -> list[dg.AssetDep]:
    own = model.dataset.partition
    mapping = looking_back(own, own, model.spec.features.history)
    deps = [dg.AssetDep(dg.AssetKey([model.dataset.name, "dataset"]), partition_mapping=mapping)]
    for name, dataset in model.lookups.items():
        reach = LookupPartitions(model.spec.lookups[name], model.dataset, dataset)
        mapping = looking_back(own, dataset.partition, reach.periods_back)
        deps.append(dg.AssetDep(dg.AssetKey([name, "dataset"]), partition_mapping=mapping))
    return deps


def _materialized(
    state: ModelState, name: str, built: BuildResult | FeaturesResult, **extra: Any
) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(
        metadata={
            **describe_table(state.tables, state.table(name)),
            "rows_in_run": built.count,
            "partitions": len(built.partitions),
            "first": built.partitions[0],
            "last": built.partitions[-1],
            **extra,
        }
    )


def _watched(rows: pl.DataFrame) -> pl.DataFrame:
    """What is drawn of monitoring: the worst statistic of each role, as a share of its threshold.

    Performance and volume are drawn in their own units.
    """
    own = pl.col("role").is_in([PERFORMANCE, VOLUME])
    held = rows.filter(own | pl.col("threshold").is_not_null(), pl.col("measure") != P_VALUE)
    shown = held.select(
        PARTITION,
        pl.when(own).then("measure").otherwise(pl.col("role") + "_drift").alias("name"),
        pl.when(own)
        .then("statistic")
        .otherwise(pl.col("statistic") / pl.col("threshold"))
        .alias("value"),
    )
    return (
        shown.group_by(PARTITION, "name")
        .agg(pl.max("value"))
        .pivot("name", index=PARTITION, values="value")
    )


def _unbalanced(model: Model, summary: pl.DataFrame) -> list[dict[str, object]]:
    if model.spec.target.kind != "binary":
        return []
    low, high = model.spec.target.positive_share
    return _where(summary, "target", ~pl.col("share").is_between(low, high))


def _outlying(model: Model, summary: pl.DataFrame) -> tuple[list[dict[str, object]], str]:
    """Partitions with too many outliers, and what is said of the others."""
    if model.spec.outliers is None:
        return [], "the model has no `outliers`: none are looked for"
    judged = summary["outliers"].count()
    said = f"{judged} of {summary.height} partitions came when a model was in production"
    return _where(summary, "outliers", pl.col("share") > model.spec.outliers.max_share), said


def _where(summary: pl.DataFrame, share: str, wrong: pl.Expr) -> list[dict[str, object]]:
    shares = summary.select(pl.col(PARTITION).alias("partition"), pl.col(share).alias("share"))
    return shares.filter(wrong).to_dicts()


def _alerts(rows: pl.DataFrame, role: str) -> list[dict[str, object]]:
    shown = [PARTITION, "measure", "column", "statistic", "threshold", "model_version"]
    alerts = rows.filter(pl.col("alert"), pl.col("role") == role)
    newest_first = alerts.sort([PARTITION, "statistic"], descending=True)
    return newest_first.select(shown).rename({PARTITION: "partition"}).to_dicts()
