"""Define the assets that watch a model: features, profile, predictions, monitoring.

Not here: how any of them is computed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import dagster as dg
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.observations import INTERVALS, P_VALUE, PERFORMANCE, VOLUME
from retrain_assets.domain.drift.training_match import FOREIGN, NULLS
from retrain_assets.domain.features.lookup_partitions import LookupPartitions
from retrain_assets.orchestration import checks, metadata, partitions
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.orchestration.run_requests import PARTITION_TAG
from retrain_assets.specs.base import hint
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.decision import layer
from retrain_assets.steps.features import build
from retrain_assets.steps.monitoring import adapt, monitor, predict, watch
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.storage import Storage

Result = dg.MaterializeResult[None]
Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]
ALERTS = {
    "no_data_drift": ("feature", "The features of the window are distributed as in training."),
    "no_prediction_drift": ("prediction", "The output is distributed as it was on the holdout."),
    "no_target_drift": ("target", "The target of the window is distributed as in training."),
    "performance_holds": ("performance", "The realised metric is within `triggers.performance`."),
}
INTERVALS_HOLD = {
    "intervals_hold": (INTERVALS, "Intervals contain as many labels as `intervals.coverage` says."),
}
NOT_WORSE = "not_worse_than_before"


@dataclass(frozen=True)
class Model:
    """A model's spec beside those of its datasets: all that its assets are made from.

    Args:
        spec: The model.
        dataset: The dataset whose rows are predicted.
        lookups: The datasets joined to it, by name.
        is_member: Whether it is one of the models of a YAML with `for_each`.
    """

    spec: ModelSpec
    dataset: DatasetSpec
    lookups: Mapping[str, DatasetSpec]
    is_member: bool = False

    def state(self, storage: Storage) -> ModelState:
        """Return the model's read side in a storage."""
        registry = storage.registry(self.spec.name, self.spec.estimator.trusted)
        parts = self.spec, self.dataset, self.lookups, storage.tables, registry
        return ModelState(*parts, engine=storage.engine)

    def key(self, name: str) -> dg.AssetKey:
        """Return the key of one of the model's assets."""
        return dg.AssetKey([self.spec.group, name])

    @cached_property
    def members(self) -> dict[str, "Model"]:
        """Return the models of the YAML by name: itself, with `for_each` also the segments."""
        is_many = self.spec.for_each is not None
        parts = self.dataset, self.lookups, is_many
        return {spec.name: Model(spec, *parts) for spec in self.spec.members()}

    def member(self, name: str | None) -> "Model":
        """Return the model of that name; the one of all rows by default.

        Raises:
            LookupError: The YAML has no such model.
        """
        name = name or self.spec.name
        if name not in self.members:
            raise LookupError(f"no model {name!r}{hint(name, self.members)}")
        return self.members[name]

    def decided(self, context: dg.AssetExecutionContext) -> "Model":
        """Return the model that a run decides on, which its partition names with `for_each`."""
        return self.member(context.partition_key if self.spec.for_each else None)

    @property
    def decides(self) -> dict[str, str]:
        """Return the tags of a run that decides on this one of several models."""
        return {PARTITION_TAG: self.spec.name} if self.is_member else {}

    def by_member(self) -> dict[str, Any]:
        """Return what the assets share whose partitions are models; nothing of a single model."""
        if self.spec.for_each is None:
            return {}
        return {"partitions_def": dg.StaticPartitionsDefinition([*self.members])}

    @cached_property
    def report_link(self) -> dg.MetadataValue[Any]:
        """Return a link to the page of the model."""
        name = self.spec.name
        return metadata.link_page(f"models/{name}", StorageResource().open().report(name))

    def asset(self, name: str, description: str, *kinds: str) -> dict[str, Any]:
        """Return what all assets of the model share."""
        link = self.report_link
        if isinstance(link, dg.UrlMetadataValue):  # the first thing that the UI shows
            description += f" [The page of {self.spec.name}]({link.url})"
        return {
            "metadata": {"report": link},
            "key": self.key(name),
            "group_name": self.spec.name,
            "owners": self.spec.owners,
            "tags": {metadata.MODEL_TAG: self.spec.name, "retrain/kind": self.spec.target.kind},
            "description": description,
            "kinds": set(kinds),
        }

    def partitioned(self, name: str, description: str, kind: str = "polars") -> dict[str, Any]:
        """Return what all partitioned assets of the model share."""
        return {
            **self.asset(name, description, kind),
            "partitions_def": partitions.partitions_definition(self.dataset.partition),
            "backfill_policy": dg.BackfillPolicy.single_run(),
            "pool": f"{self.spec.name}_monitor",
        }

    def checks(self, key: dg.AssetKey, texts: Mapping[str, str]) -> list[dg.AssetCheckSpec]:
        """Return checks of a partitioned asset, by name with what is true when they pass."""
        parts = partitions.partitions_definition(self.dataset.partition)
        return [checks.spec(key, name, text, parts) for name, text in texts.items()]


def monitor_assets(model: Model) -> list[dg.AssetsDefinition]:
    """Return features, profile, predictions and monitoring; the adaptive layer if it is learned."""
    assets = [_features(model), _profile(model), _predictions(model), _monitoring(model)]
    return assets if model.spec.layer.mode == "off" else [*assets, _adaptation(model)]


def _features(model: Model) -> dg.AssetsDefinition:
    key = model.key("features")
    texts = {
        "rows_have_features": "The features of every row can be computed; where they cannot, the "
        "row is left out of training, predictions and monitoring.",
        "features_match_training": "Columns are those production was trained on, shares of nulls "
        f"within {NULLS:g} of training, at most {FOREIGN:.0%} of values beyond its ranges and "
        "categories; no column is empty or constant.",
        "target_balance_within_range": "The share of positives is within `target.positive_share`.",
        "outlier_share_within_range": "No more rows than `outliers.max_share` lie far out of what "
        "production was trained on.",
    }

    @dg.asset(
        **model.partitioned("features", "Validated features and target, as known when predicting."),
        deps=dataset_deps(model),
        check_specs=model.checks(key, texts),
    )
    def features(context: dg.AssetExecutionContext, storage: StorageResource) -> Results:
        state, keys = model.state(storage.open()), partitions.requested_partitions(context)
        result = build.build_features(state, keys, context.run_id)
        metadata.add_series(context, key, result.summary.rename({"rows": metadata.ROWS}))
        yield _describe(state, "features", result, rows_refused=len(result.refused))
        cases: dict[str, tuple[Sequence[Mapping[str, object]], str]] = {
            "rows_have_features": (result.refused, ""),
            "features_match_training": (result.mismatches, ""),
            "target_balance_within_range": (_find_unbalanced(model, result.summary), ""),
            "outlier_share_within_range": _find_outlying(model, result.summary),
        }
        yield from checks.spread(
            context,
            (checks.warn(name, key, x, message=text) for name, (x, text) in cases.items()),
        )

    return features


def _profile(model: Model) -> dg.AssetsDefinition:
    text = "A small mergeable summary of each column, a row a partition."

    @dg.asset(**model.partitioned("profile", text), deps=[model.key("features")])
    def profile(context: dg.AssetExecutionContext, storage: StorageResource) -> Result:
        state, keys = model.state(storage.open()), partitions.requested_partitions(context)
        result = build.build_profiles(state, keys, context.run_id)
        return _describe(state, "profile", result)

    return profile


def _predictions(model: Model) -> dg.AssetsDefinition:
    key = model.key("predictions")
    text = "What the version in production when the partition arrived predicted, with the label."

    @dg.asset(**model.partitioned("predictions", text, "scikitlearn"), deps=[model.key("features")])
    def predictions(context: dg.AssetExecutionContext, storage: StorageResource) -> Result:
        state, keys = model.state(storage.open()), partitions.requested_partitions(context)
        result = predict.predict_partitions(state, keys, context.run_id)
        rows = result.rows.group_by(PARTITION).agg(
            pl.len().alias(metadata.ROWS), pl.col("model_version").first()
        )
        metadata.add_series(context, key, rows)
        return _describe(state, "predictions", result)

    return predictions


def _monitoring(model: Model) -> dg.AssetsDefinition:
    key = model.key("monitoring")
    alerts = ALERTS | (INTERVALS_HOLD if model.spec.intervals else {})
    texts = {name: text for name, (_, text) in alerts.items()}
    text = "Production is not shown to be worse than the version before it since it came."
    since = checks.spec(key, NOT_WORSE, text)  # about all partitions since

    @dg.asset(
        **model.partitioned(
            "monitoring", "Drift and realised performance of each partition's window."
        ),
        deps=[model.key("profile"), model.key("predictions")],
        check_specs=[*model.checks(key, texts), since],
    )
    def monitoring(context: dg.AssetExecutionContext, storage: StorageResource) -> Results:
        state, keys = model.state(storage.open()), partitions.requested_partitions(context)
        state = replace(state, memo={})  # the pictures show the profiles that were compared
        result = monitor.monitor(state, keys, context.run_id)
        metadata.add_series(context, key, _select_drawn(result.rows))
        watched = result.rows["model_version"].is_not_null().any()
        draw = partial(metadata.draw_pictures, state, result.partitions[-1])
        pictures = metadata.describe_stored(context, "pictures", draw) if watched else {}
        yield _describe(state, "monitoring", result, **pictures)
        yield from checks.spread(context, _check_alerts(key, alerts, result))
        yield _watch(state, key, context.run_id)
        if model.spec.layer.mode == "off":  # it has no asset, which would record its end
            layer.act(state, context.run_id)

    return monitoring


def _check_alerts(
    key: dg.AssetKey, alerts: Mapping[str, tuple[str, str]], result: build.BuildResult
) -> Iterator[dg.AssetCheckResult]:
    for name, (role, _) in alerts.items():
        cases = _list_alerts(result.rows, role)
        message = f"{len(cases)} alerts in {len(result.partitions)} partitions"
        yield checks.warn(name, key, cases, message=message)


def _adaptation(model: Model) -> dg.AssetsDefinition:
    key = model.key("adaptation")
    text = "What the adaptive layer learned of partitions with final labels."

    @dg.asset(**model.partitioned("adaptation", text, "numpy"), deps=[model.key("monitoring")])
    def adaptation(context: dg.AssetExecutionContext, storage: StorageResource) -> Result:
        state = model.state(storage.open())
        result = adapt.adapt_partitions(state, context.run_id)
        row = layer.act(state, context.run_id)
        requested = partitions.requested_partitions(context)
        rows = result.rows.filter(pl.col(PARTITION).is_in(requested))
        metadata.add_series(context, key, rows.select(PARTITION, *adapt.LOSSES, *adapt.WEIGHTS))
        described = metadata.describe_table(state.tables, state.table("adaptation"))
        described["states_made"] = len(result.partitions)
        described |= {"action": row.action, "reason": row.reason} if row else {}
        picture = metadata.describe_stored(context, "layer", partial(metadata.draw_layer, state))
        return dg.MaterializeResult(metadata=described | picture)

    return adaptation


def _watch(state: ModelState, key: dg.AssetKey, run_id: str) -> dg.AssetCheckResult:
    """Compare production with the version before; return to that where the YAML says so."""
    summary = watch.watch(state, run_id)
    row = watch.act(state, summary)
    message = "there is no version before it to compare with, or `watch: off`"
    message = summary.sentence if summary else message
    message += f": rolled back to version {row.version}" if row else ""
    passed = not (summary and summary.is_worse)
    return checks.warn(NOT_WORSE, key, [], message=message, passed=passed)


def dataset_deps(model: Model) -> list[dg.AssetDep]:
    """Return the datasets that features are made from."""
    spec, dataset = model.spec, model.dataset
    parts: list[tuple[DatasetSpec, int | None]] = [(dataset, spec.features.history)]
    for name, source in model.lookups.items():
        parts.append((source, LookupPartitions(spec.lookups[name], dataset, source).periods_back))
    return [
        dg.AssetDep(
            dg.AssetKey([source.name, "dataset"]),
            partition_mapping=partitions.map_partitions(dataset.partition, source.partition, back),
        )
        for source, back in parts
    ]


def _describe(
    state: ModelState, name: str, result: build.BuildResult | build.FeaturesResult, **extra: Any
) -> Result:
    table = (
        metadata.describe_features(state.tables, state.spec)
        if name == "features"
        else metadata.describe_table(state.tables, state.table(name))
    )
    return dg.MaterializeResult(
        metadata={
            **table,
            "rows_in_run": result.count,
            "partitions": len(result.partitions),
            "first": result.partitions[0],
            "last": result.partitions[-1],
            **extra,
        }
    )


def _select_drawn(rows: pl.DataFrame) -> pl.DataFrame:
    """Return what is drawn of monitoring: each role's worst statistic, as a share of its threshold.

    Performance, intervals and volume are drawn in their own units.
    """
    unscaled = pl.col("role").is_in([PERFORMANCE, INTERVALS, VOLUME])
    statistic, measure = pl.col("statistic"), pl.col("measure")
    scaled = statistic / pl.col("threshold")
    return (
        rows.filter(unscaled | pl.col("threshold").is_not_null(), measure != P_VALUE)
        .select(
            PARTITION,
            name=pl.when(unscaled).then(measure).otherwise(pl.col("role") + "_drift"),
            value=pl.when(unscaled).then(statistic).otherwise(scaled),
        )
        .group_by(PARTITION, "name")
        .agg(pl.max("value"))
        .pivot("name", index=PARTITION, values="value")
    )


def _find_unbalanced(model: Model, summary: pl.DataFrame) -> list[dict[str, object]]:
    if model.spec.target.kind != "binary":
        return []
    low, high = model.spec.target.positive_share
    return _find_partitions(summary, "target", ~pl.col("share").is_between(low, high))


def _find_outlying(model: Model, summary: pl.DataFrame) -> tuple[list[dict[str, object]], str]:
    """Return partitions with too many outliers, and a message about all partitions."""
    if model.spec.outliers is None:
        return [], "the model has no `outliers`: none are looked for"
    count, highest = summary["outliers"].count(), model.spec.outliers.max_share
    message = f"{count} of {summary.height} partitions came when a model was in production"
    return _find_partitions(summary, "outliers", pl.col("share") > highest), message


def _find_partitions(summary: pl.DataFrame, share: str, wrong: pl.Expr) -> list[dict[str, object]]:
    shares = summary.select(pl.col(PARTITION).alias("partition"), pl.col(share).alias("share"))
    return shares.filter(wrong).to_dicts()


def _list_alerts(rows: pl.DataFrame, role: str) -> list[dict[str, object]]:
    columns = ["measure", "column", "statistic", "threshold", "model_version"]
    alerts = rows.filter(pl.col("alert"), pl.col("role") == role)
    newest_first = alerts.sort([PARTITION, "statistic"], descending=True)
    return newest_first.select(pl.col(PARTITION).alias("partition"), *columns).to_dicts()
