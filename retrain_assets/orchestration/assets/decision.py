"""Define the assets that replace a model: candidate_model, evaluation, production_model.

Not here: fitting, judging and deciding (`steps.decision`).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import dagster as dg

from retrain_assets.orchestration import beside, checks, jobs, messages, metadata
from retrain_assets.orchestration.assets.monitoring import Model, Results
from retrain_assets.orchestration.resources import Channels, StorageResource, mlflow_run, nested_run
from retrain_assets.steps.decision import evaluate, promote, reconsider, train
from retrain_assets.steps.inspect import card, status
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import LedgerRow
from retrain_assets.stores.registry import model_check
from retrain_assets.stores.registry.registry import ModelVersion
from retrain_assets.stores.storage import Storage

CHECKS = {
    "candidate_model": {
        "loads_and_predicts": "A clean process loads the version and repeats its predictions."
    },
    "evaluation": {
        "candidate_beats_production": "The verdict is PROMOTE.",
        "no_slice_regresses": "No slice of `gate.slices` is worse beyond its interval.",
    },
    "production_model": {
        "alias_matches_ledger": "MLflow's alias `production` names the version the ledger names."
    },
}
BLOCKING = "loads_and_predicts"


def decision_assets(model: Model) -> list[dg.AssetsDefinition]:
    """Return `<m>/candidate_model`, `<m>/evaluation` and `<m>/production_model`."""
    return [_candidate(model), _evaluation(model), _production(model)]


def _asset(model: Model, name: str, description: str, deps: list[str], *kinds: str) -> Any:
    """Return the decorator of one of the assets, with its checks."""
    key = model.key(name)
    return dg.asset(
        **model.asset(name, description, *kinds),
        **model.by_member(),
        pool=f"{model.spec.name}_retrain",
        deps=[model.key(dep) for dep in deps],
        check_specs=[
            checks.spec(key, check, text, blocking=check == BLOCKING)
            for check, text in CHECKS[name].items()
        ],
    )


@contextmanager
def _mlflow_runs(
    context: dg.AssetExecutionContext, storage: Storage, model: Model
) -> Iterator[Callable[[], str]]:
    """Yield a function that starts an MLflow run; later runs are nested in the first."""
    runs = chain([mlflow_run(context, storage, model.spec.name)], iter(nested_run, None))
    with ExitStack() as stack:
        yield lambda: stack.enter_context(next(runs))


def _nest(start_run: Callable[[], str]) -> str:
    """Start a nested run, since MLflow takes no other parameters in the run of the candidate."""
    start_run()
    return start_run()


def _candidate(model: Model) -> dg.AssetsDefinition:
    text = "A fitted pipeline, registered."

    @_asset(model, "candidate_model", text, ["features"], "scikitlearn", "mlflow")
    def candidate_model(context: dg.AssetExecutionContext, storage: StorageResource) -> Results:
        model_check.prepare_check()
        opened, tags = storage.open(), context.run.tags
        member, version = model.decided(context), int(tags.get(metadata.HELD_TAG, 0))
        state = member.state(opened)
        causes = tuple(filter(None, tags.get(metadata.CAUSES_TAG, "request").split(",")))
        why, as_of = (causes, tags.get(metadata.BECAUSE_TAG, "")), tags.get(metadata.AS_OF_TAG)
        state.registry.close_runs()  # one retraining runs at a time, so nobody works on them
        with _mlflow_runs(context, opened, member) as start_run:
            versions = reconsider.propose(state, version or None, as_of, why, start_run)
        yield dg.MaterializeResult(metadata=_describe_candidates(opened, causes, versions))
        yield _check_versions(model, state, versions)

    return candidate_model


def _describe_candidates(
    storage: Storage, causes: tuple[str, ...], versions: list[ModelVersion]
) -> dict[str, Any]:
    version, *others = versions
    return {
        "version": version.version,
        "causes": ", ".join(causes),
        **{tag: version.tags[tag] for tag in ("as_of", "train_from", "train_to")},
        **({"beside": ", ".join(str(item.version) for item in others)} if others else {}),
        "mlflow": metadata.link_mlflow_run(storage.mlflow_uri, version.run_id),
        **{
            f"holdout_{name}": metadata.round_number(value)
            for name, value in version.metrics.items()
        },
    }


def _check_versions(
    model: Model, state: ModelState, versions: list[ModelVersion]
) -> dg.AssetCheckResult:
    kind, key = model.spec.target.kind, model.key("candidate_model")
    results = [state.registry.check_in_clean_process(version, kind) for version in versions]
    passed, text = all(item.passed for item in results), "; ".join(item.detail for item in results)
    return checks.result(BLOCKING, key, [], passed=passed, message=text)


def _evaluation(model: Model) -> dg.AssetsDefinition:
    text, deps = "Candidate and production on the same holdout.", ["candidate_model", "features"]

    @_asset(model, "evaluation", text, deps, "polars")
    def evaluation(context: dg.AssetExecutionContext, storage: StorageResource) -> Results:
        state = model.decided(context).state(storage.open())
        result = evaluate.evaluate(state, state.ledger.read(), context.run_id)
        yield dg.MaterializeResult(metadata=_describe_evaluation(result))
        yield from _check_evaluation(model, result)

    return evaluation


def _describe_evaluation(evaluation: evaluate.Evaluation) -> dict[str, Any]:
    from retrain_assets.reports.page import to_markdown

    described: dict[str, Any] = {
        "verdict": evaluation.verdict.value,
        "reason": evaluation.reason,
        "candidate": evaluation.candidate,
        "production": evaluation.production or 0,
        "holdout": f"{evaluation.holdout_from} to {evaluation.holdout_to}",
        **{f"candidate_{name}": metadata.round_number(x) for name, x in evaluation.metrics.items()},
    }
    if (picture := evaluation.picture()) is not None:
        described["gain"] = evaluation.gain
        described["gain_by_partition"] = dg.MetadataValue.md(to_markdown(picture))
    return described


def _check_evaluation(
    model: Model, evaluation: evaluate.Evaluation
) -> Iterator[dg.AssetCheckResult]:
    evidence, reason = evaluation.evidence, evaluation.reason
    guards = [guard for guard in evidence.get("guards", []) if not guard["passed"]]
    slices = evidence.get("slices", [])
    regressing = [entry for entry in slices if entry["regresses"]]
    passed, key = evaluation.verdict.value == "PROMOTE", model.key("evaluation")
    yield checks.warn("candidate_beats_production", key, guards, passed=passed, message=reason)
    text = f"{len(slices)} slices compared"
    yield checks.warn("no_slice_regresses", key, regressing, message=text)


def _production(model: Model) -> dg.AssetsDefinition:
    text = (
        "The decision on the candidate: ledger, refit, alias, message. What the gate refused "
        "cannot be promoted by materializing this."
    )

    @_asset(model, "production_model", text, ["evaluation"], "mlflow")
    def production_model(
        context: dg.AssetExecutionContext, storage: StorageResource, channels: Channels
    ) -> Results:
        opened, member = storage.open(), model.decided(context)
        state = member.state(opened)
        with _mlflow_runs(context, opened, member) as start_run:
            row = promote.decide_candidate(state, context.run_id, partial(_nest, start_run))
        messages.tell_at_once(member, opened, channels, context)
        remedy = f"retrain card {member.spec.name} {row.version}"
        write = partial(_write_card, state, opened, row, remedy)
        card_link = metadata.describe_stored(context, "card", write, remedy)
        yield dg.MaterializeResult(metadata=_describe_decision(row) | card_link)
        yield _check_alias(model, state)

    return production_model


def _describe_decision(row: LedgerRow) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in ("action", "version", "reason", "as_of")},
        "previous": row.previous or 0,
        "causes": ", ".join(row.causes),
        "data_from": row.data_range[0],
        "data_to": row.data_range[1],
        **{f"gated_{name}": metadata.round_number(value) for name, value in row.metrics.items()},
    }


def _write_card(state: ModelState, storage: Storage, row: LedgerRow, remedy: str) -> dict[str, Any]:
    """Write the cards of the version decided on and of its refit, and return the link to it."""
    numbers = {row.candidate or row.version, row.version}
    beside.do(remedy, card.write_cards, state, numbers, storage.cards)
    path = card.path_of(state.spec.name, row.version, storage.cards)
    return {"card": metadata.link_page(f"models/{state.spec.name}/cards/{row.version}", path)}


def _check_alias(model: Model, state: ModelState) -> dg.AssetCheckResult:
    number, key = state.ledger.read().production_version, model.key("production_model")
    passed = number is None or state.registry.alias(train.PRODUCTION) == number
    text = f"production is version {number}" if number else "nothing is in production"
    return checks.result("alias_matches_ledger", key, [], passed=passed, message=text)


def currency_check(model: Model) -> dg.AssetChecksDefinition:
    """Return the check that production was trained on the present data; `<m>_monitor` runs it."""
    key = model.key("production_model")
    text = "No partition that production was trained on was corrected since."
    described = checks.spec(key, jobs.CURRENCY, text).description

    @dg.asset_check(asset=key, name=jobs.CURRENCY, description=described)
    def check(storage: StorageResource) -> dg.AssetCheckResult:
        state = model.state(storage.open())
        stale = status.list_stale(state)
        corrected = [{"partition": partition} for partition in stale]
        text = status.describe_staleness(state, stale)
        return checks.warn(jobs.CURRENCY, key, corrected, message=text)

    return check
