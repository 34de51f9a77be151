"""Define the assets that watch the models of all segments: one step for all of them.

A step and an event for each model would cost more than its work. So partitions of these assets are
days, and those of what is decided on a model (`decision`) are models. Not here: the work.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from retrain_assets.orchestration import checks, partitions
from retrain_assets.orchestration.assets import monitoring
from retrain_assets.orchestration.assets.monitoring import ALERTS, NOT_WORSE, Model, Results
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.orchestration.run_requests import REQUEST_TAG
from retrain_assets.steps.monitoring import many
from retrain_assets.steps.state import ModelState

ALL_MONITORED = "all_segments_monitored"
ASSETS = {
    "features": ("Features and target of all segments, a table each.", ()),
    "profile": ("Summaries of each column, a table a segment.", ("features",)),
    "predictions": ("What the versions in production predicted.", ("features",)),
    "monitoring": ("Drift and performance of each segment.", ("profile", "predictions")),
}
CHECKS = {
    "features": {
        "rows_have_features": "The features of every row can be computed.",
        "features_match_training": "Columns are those production was trained on.",
    },
    "monitoring": {
        **{name: text for name, (_, text) in ALERTS.items()},
        NOT_WORSE: "No production is shown to be worse than the version before it.",
        ALL_MONITORED: "The models of all segments could be built.",
    },
}


def segment_assets(model: Model) -> dg.AssetsDefinition:
    """Return features, profile, predictions and monitoring of a model with `for_each`."""

    @dg.multi_asset(
        name=f"{model.spec.name}_segments",
        specs=[_spec(model, name, text, deps) for name, (text, deps) in ASSETS.items()],
        check_specs=[
            checks.spec(model.key(asset), name, text)
            for asset, texts in CHECKS.items()
            for name, text in texts.items()
        ],
        partitions_def=partitions.partitions_definition(model.dataset.partition),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=f"{model.spec.name}_monitor",
    )
    def monitor_segments(context: dg.AssetExecutionContext, storage: StorageResource) -> Results:
        opened, keys = storage.open(), partitions.requested_partitions(context)
        states = [member.state(opened) for member in model.members.values()]
        if REQUEST_TAG in context.run.tags:  # otherwise a person wants all of them again
            states = [state for state in states if _has_changed(state, keys)] or states
        outcome = many.monitor_members(states, keys, context.run_id, context.log.info)
        for name in ASSETS:
            described: dict[str, Any] = {
                "models": outcome.models,
                "rows_in_run": outcome.rows.get(name, 0),
            }
            described |= {"partitions": len(keys), "first": keys[0], "last": keys[-1]}
            yield dg.MaterializeResult(asset_key=model.key(name), metadata=described)
        yield from _check(model, outcome)

    return monitor_segments


def _spec(model: Model, name: str, text: str, deps: tuple[str, ...]) -> dg.AssetSpec:
    parts = model.asset(name, text, "polars")
    upstream = [model.key(dep) for dep in deps] or monitoring.dataset_deps(model)
    return dg.AssetSpec(**parts, deps=upstream)


def _has_changed(state: ModelState, keys: tuple[str, ...]) -> bool:
    return not {*keys}.isdisjoint(state.list_unbuilt(state.sources()))


def _check(model: Model, outcome: many.Outcome) -> Iterator[dg.AssetCheckResult]:
    features, monitored = model.key("features"), model.key("monitoring")
    yield checks.warn("rows_have_features", features, outcome.refused)
    yield checks.warn("features_match_training", features, outcome.mismatches)
    for name, (role, _) in ALERTS.items():
        cases = many.list_alerts(outcome, role)
        models = len({case[many.MODEL] for case in cases})
        message = f"{len(cases)} alerts of {models} models"
        yield checks.warn(name, monitored, cases, message=message)
    yield checks.warn(NOT_WORSE, monitored, outcome.worse)
    failures = [
        {many.MODEL: name, "reason": f"{type(error).__name__}: {error}".splitlines()[0]}
        for name, error in outcome.failures.items()
    ]
    yield checks.result(ALL_MONITORED, monitored, failures)
