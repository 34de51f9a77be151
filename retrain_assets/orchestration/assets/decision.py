"""The assets that replace a model: candidate_model, evaluation, production_model.

Not here: fitting, judging, deciding.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from itertools import chain, repeat
from typing import Any

import dagster as dg

from retrain_assets.orchestration import checks
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.checks import CHECK_HELP
from retrain_assets.orchestration.jobs import CURRENCY
from retrain_assets.orchestration.messages import tell_at_once
from retrain_assets.orchestration.metadata import (
    AS_OF_TAG,
    BECAUSE_TAG,
    CAUSES_TAG,
    HELD_TAG,
    drawn,
    mlflow_link,
)
from retrain_assets.orchestration.resources import Channels, StorageResource, mlflow_run, nested_run
from retrain_assets.steps.decision.evaluate import Evaluation, evaluate
from retrain_assets.steps.decision.promote import decide_candidate
from retrain_assets.steps.decision.reconsider import propose
from retrain_assets.steps.decision.train import PRODUCTION
from retrain_assets.steps.inspect.card import write_card
from retrain_assets.steps.inspect.status import stale, staleness
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.storage import Storage


def decision_assets(model: Model) -> list[dg.AssetsDefinition]:
    """`<m>/candidate_model`, `<m>/evaluation`, `<m>/production_model`."""
    return [_candidate(model), _evaluation(model), _production(model)]


def _common(model: Model, name: str, description: str, *kinds: str) -> dict[str, Any]:
    return {**model.asset(name, description, *kinds), "pool": f"{model.spec.name}_retrain"}


def _candidate(model: Model) -> dg.AssetsDefinition:
    key = model.key("candidate_model")

    @dg.asset(
        **_common(
            model, "candidate_model", "A fitted pipeline, registered.", "scikitlearn", "mlflow"
        ),
        deps=[model.key("features")],
        check_specs=[
            checks.spec(
                key,
                "loads_and_predicts",
                "A clean process loads the version and repeats its predictions.",
                blocking=True,
            )
        ],
    )
    def candidate_model(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        opened = storage.open()
        state, registry = model.state(opened), opened.registry(model.spec.name)
        tags = context.run.tags
        causes = tuple(filter(None, tags.get(CAUSES_TAG, "request").split(",")))
        held = tags.get(HELD_TAG)
        registry.close_runs()  # one retraining of a model runs at a time, so nobody works on them
        with ExitStack() as stack:
            start = partial(mlflow_run, context, opened, model.spec.name)
            starts: Iterator[Callable[[], AbstractContextManager[str]]]
            starts = chain([start], repeat(nested_run))
            version, *others = propose(
                state,
                registry,
                int(held) if held else None,
                tags.get(AS_OF_TAG),
                (causes, tags.get(BECAUSE_TAG, "")),
                lambda: stack.enter_context(next(starts)()),
            )
        yield dg.MaterializeResult(
            metadata={
                "version": version.version,
                "as_of": version.tags["as_of"],
                "causes": ", ".join(causes),
                "train_from": version.tags["train_from"],
                "train_to": version.tags["train_to"],
                **({"beside": ", ".join(str(other.version) for other in others)} if others else {}),
                "mlflow": mlflow_link(opened.mlflow_uri, version.run_id),
                **{f"holdout_{name}": drawn(value) for name, value in version.metrics.items()},
            }
        )
        tried = [
            registry.check_in_clean_process(one, model.spec.target.kind)
            for one in (version, *others)
        ]
        said = "; ".join(one.detail for one in tried)
        passed = all(one.passed for one in tried)
        yield checks.result("loads_and_predicts", key, [], passed=passed, message=said)

    return candidate_model


def _evaluation(model: Model) -> dg.AssetsDefinition:
    key = model.key("evaluation")
    checked = {
        "candidate_beats_production": "The verdict is PROMOTE.",
        "no_slice_regresses": "No slice of `gate.slices` is worse beyond its interval.",
    }

    @dg.asset(
        **_common(model, "evaluation", "Candidate and production on the same holdout.", "polars"),
        deps=[model.key("candidate_model"), model.key("features")],
        check_specs=[checks.spec(key, name, text) for name, text in checked.items()],
    )
    def evaluation(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        opened = storage.open()
        state, registry = model.state(opened), opened.registry(model.spec.name)
        found = evaluate(state, registry, state.ledger.read(), context.run_id)
        yield dg.MaterializeResult(metadata=_evaluation_metadata(found))
        yield checks.result(
            "candidate_beats_production",
            key,
            [guard for guard in found.evidence.get("guards", []) if not guard["passed"]],
            passed=found.verdict.value == "PROMOTE",
            severity=checks.WARN,
            message=found.reason,
        )
        slices = found.evidence.get("slices", [])
        yield checks.result(
            "no_slice_regresses",
            key,
            [entry for entry in slices if entry["regresses"]],
            severity=checks.WARN,
            message=f"{len(slices)} slices compared",
        )

    return evaluation


def _production(model: Model) -> dg.AssetsDefinition:
    key = model.key("production_model")

    @dg.asset(
        **_common(
            model,
            "production_model",
            "The decision on the candidate: ledger, refit, alias, message. What the gate refused "
            "cannot be promoted by materializing this.",
            "mlflow",
        ),
        deps=[model.key("evaluation")],
        check_specs=[
            checks.spec(
                key,
                "alias_matches_ledger",
                "MLflow's alias `production` names the version the ledger names.",
            )
        ],
    )
    def production_model(
        context: dg.AssetExecutionContext, storage: StorageResource, channels: Channels
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        opened = storage.open()
        state, registry = model.state(opened), opened.registry(model.spec.name)
        with ExitStack() as stack:
            start = partial(mlflow_run, context, opened, model.spec.name)
            row = decide_candidate(
                state, registry, context.run_id, lambda: stack.enter_context(start())
            )
        tell_at_once(model, opened, channels, context)
        yield dg.MaterializeResult(
            metadata={
                "action": row.action,
                "version": row.version,
                "card": _card(context, model, opened, row),
                "previous": row.previous or 0,
                "reason": row.reason,
                "causes": ", ".join(row.causes),
                "as_of": row.as_of,
                "data_from": row.data_range[0],
                "data_to": row.data_range[1],
                **{f"gated_{name}": drawn(value) for name, value in row.metrics.items()},
            }
        )
        now = state.ledger.read().production
        matches = now is None or registry.alias(PRODUCTION) == now.version
        yield checks.result(
            "alias_matches_ledger",
            key,
            [],
            passed=matches,
            message=f"production is version {now.version}" if now else "nothing is in production",
        )

    return production_model


def _card(context: dg.AssetExecutionContext, model: Model, storage: Storage, row: LedgerRow) -> Any:
    """Where the card of the version decided on is; what was decided stands without one."""
    state, registry, path = model.state(storage), storage.registry(model.spec.name), ""
    try:
        for version in sorted({row.candidate or row.version, row.version}):  # its refit is newer
            path = str(write_card(state, registry, version, storage.cards))
    except Exception:  # whatever it is, such as a full disk: the decision is in the ledger by now
        context.log.exception("no card: retrain card %s %d", model.spec.name, row.version)
        return "not written, see the log of the run"
    return dg.MetadataValue.path(path)


def currency_check(model: Model) -> dg.AssetChecksDefinition:
    """Whether production was trained on the data as they are now; looked at by `<m>_monitor`."""

    @dg.asset_check(
        asset=model.key("production_model"),
        name=CURRENCY,
        description="No partition that production was trained on was corrected since. "
        f"When red: {CHECK_HELP[CURRENCY]}",
    )
    def check(storage: StorageResource) -> dg.AssetCheckResult:
        state = model.state(storage.open())
        corrected = [{"partition": key} for key in stale(state)]
        key, said = model.key("production_model"), staleness(state)
        return checks.result(CURRENCY, key, corrected, severity=checks.WARN, message=said)

    return check


def _evaluation_metadata(found: Evaluation) -> dict[str, Any]:
    from retrain_assets.reports.plots import markdown

    metadata: dict[str, Any] = {
        "verdict": found.verdict.value,
        "reason": found.reason,
        "candidate": found.candidate,
        "production": found.production or 0,
        "holdout": f"{found.holdout_from} to {found.holdout_to}",
        **{f"candidate_{name}": drawn(value) for name, value in found.metrics.items()},
    }
    if (picture := found.picture()) is not None:
        metadata["gain"] = found.evidence["comparison"]["gain"]
        metadata["gain_by_partition"] = dg.MetadataValue.md(markdown(picture))
    return metadata
