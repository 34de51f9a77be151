"""The triggering policy: decide from the facts of a situation whether to retrain, and why.

Time is counted in partitions of the data, so that a replay decides what the live system decided.
Not here: the rule of each cause (`causes`), and asking Dagster for a run.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from retrain_assets.domain.decision.causes import CAUSES, explain_wait, find_awaited_candidate
from retrain_assets.domain.decision.situation import (
    Answer,
    Cause,
    Expectation,
    HeldCandidate,
    Request,
    Situation,
)
from retrain_assets.domain.windows import count_since
from retrain_assets.specs.base import number_of
from retrain_assets.specs.model import ModelSpec

REFUSED, TAKEN = ("hold", "reject"), ("promote", "approve")
CHANGE_CAUSES = {"no_production", "spec_change"}  # by which a change of the YAML is tried at once


def decide(spec: ModelSpec, situation: Situation) -> Request:
    """Decide whether to retrain, from the answer of each cause.

    Args:
        spec: The model.
        situation: The facts.

    Returns:
        The request; `retrain` is false with a reason when no cause fired, history is too short, a
        person paused it, the last decision is younger than `triggers.cooldown`, or what it held
        is yet to be judged again.
    """
    if len(situation.mature) < situation.needed:
        reason = f"{len(situation.mature)} of {situation.needed} partitions needed have landed"
        if situation.unbuilt:
            reason = (
                f"{reason.removesuffix('have landed')}are ready; {situation.unbuilt} more have "
                f"landed: the sensor of {spec.name} or `retrain backfill {spec.name}` monitors them"
            )
        return Request(retrain=False, reason=reason, as_of=None, causes=())
    if situation.shortage:
        return Request(retrain=False, reason=situation.shortage, as_of=None, causes=())
    as_of = situation.mature[-1]
    answers = {name: rule(spec, situation) for name, rule in CAUSES.items()}
    causes = tuple(
        Cause(name, *_restrain(spec, situation, name, answers), as_of) for name in answers
    )
    reason = "; ".join(cause.reason for cause in causes if cause.fired) or "no cause has fired"
    candidate = _find_awaited(spec, situation)
    wait, pause = None, situation.pause
    if pause and as_of < pause.until:
        wait = f"paused until {pause.until} by {pause.by} ({pause.reason})"
    fired = [cause.cause for cause in causes if cause.fired]
    is_change = CHANGE_CAUSES.intersection(fired) and _is_untried(spec, situation)
    if fired and not wait and not is_change:
        unready = explain_wait(situation, candidate) if candidate else _nothing_new(spec, situation)
        wait = _cooling_down(spec, situation) or unready
    reason = f"{wait}: {reason}" if wait else reason
    retrain = bool(fired) and wait is None
    held_version = candidate.version if candidate and retrain else None
    return Request(retrain, reason, as_of, causes, held_version)


def foresee(spec: ModelSpec, situation: Situation, request: Request) -> Expectation:
    """Return when the next decision is expected if no further cause fires.

    Args:
        spec: The model.
        situation: The facts.
        request: What `decide` answers to them.
    """
    mature, production = situation.mature, situation.production
    if request.retrain:
        return Expectation(0, request.reason)
    if (missing := situation.needed - len(mature)) > 0:
        return Expectation(missing, "when the windows of the first model are full")
    since = count_since(mature, situation.last_decision or "")
    earliest, triggers = max(spec.triggers.cooldown, 1) - since, spec.triggers
    if not situation.shortage and (candidate := _find_awaited(spec, situation)):
        reason = f"when version {candidate.version}, which is held, is judged again"
        return Expectation(max(candidate.more_partitions - since, earliest, 1), reason)
    # A candidate that is no newer than production is not trained.
    through = production.trained_through if production else ""
    earliest = max(earliest, spec.windows.holdout + 1 - count_since(mature, through), 1)
    if request.fired:
        return Expectation(earliest, "when the cause that has fired has waited long enough")
    if triggers.new_partitions is None or situation.shortage:
        what = "the segment has enough rows" if situation.shortage else "a cause fires"
        return Expectation(None, f"no decision is due before {what}")
    reason = f"when {triggers.new_partitions} have come since the last decision"
    return Expectation(max(triggers.new_partitions - since, earliest), reason)


def _find_awaited(spec: ModelSpec, situation: Situation) -> HeldCandidate | None:
    """Return the held candidate that other causes wait for.

    While the performance of production is beyond its limit, nothing waits: a new candidate may be
    better, and the second look may be weeks away.
    """
    candidate = find_awaited_candidate(spec, situation)
    if candidate and explain_wait(situation, candidate):
        return None if CAUSES["performance"](spec, situation).fired else candidate
    return candidate


def count_refusals(decided: Iterable[tuple[str, Iterable[str]]]) -> dict[str, int]:
    """Return how often each cause asked for a candidate that was refused, since one was taken.

    Args:
        decided: The ledger's action and what asked for it, oldest first.
    """
    counted: Counter[str] = Counter()
    for action, causes in decided:
        if action in REFUSED:
            counted.update(causes)
        elif action in TAKEN:
            counted.clear()
    return dict(counted)


def _restrain(
    spec: ModelSpec, situation: Situation, name: str, answers: Mapping[str, Answer]
) -> Answer:
    """Return the answer of a cause; it backs off, or fires only with all others that have to."""
    fired, reason = answers[name]
    signals = spec.triggers.signals
    if not fired:
        return answers[name]
    if spec.triggers.require == "all" and name in signals:
        missing = [signal for signal in answers if signal in signals and not answers[signal].fired]
        if missing:
            others = ", ".join(missing)
            return Answer(False, f"{reason}; `require: all` also waits for {others}")
    wait = _back_off(spec, situation, name)
    return Answer(wait is None, f"{wait}: {reason}" if wait else reason)


def _is_untried(spec: ModelSpec, situation: Situation) -> bool:
    """Return whether a person has changed recipe or gate since the newest decision.

    Such a change is tried at once, and then waits like everything else.
    """
    gate_is_new = situation.last_gate not in {None, spec.gate_digest}
    return gate_is_new or situation.last_recipe != situation.recipe


def _back_off(spec: ModelSpec, situation: Situation, cause: str) -> str | None:
    allowed, refused = spec.triggers.back_off, situation.refusals.get(cause, 0)
    if allowed is None or refused < allowed or situation.last_decision is None:
        return None
    if cause in CHANGE_CAUSES and _is_untried(spec, situation):
        return None
    wait = max(spec.triggers.cooldown, 1) * 2 ** (refused - allowed + 1)
    since = count_since(situation.mature, situation.last_decision)
    if since >= wait:
        return None
    candidates = number_of(refused, "candidate")
    return f"after {candidates} without promotion, {since} of {wait} partitions have come"


def _cooling_down(spec: ModelSpec, situation: Situation) -> str | None:
    if situation.last_decision is None:
        return None
    since = count_since(situation.mature, situation.last_decision)
    # A decision is made once an as-of, however short the cooldown.
    if since >= max(spec.triggers.cooldown, 1):
        return None
    cooldown = f"`triggers.cooldown` is {spec.triggers.cooldown}"
    return f"{number_of(since, 'partition')} since the last decision, and {cooldown}"


def _nothing_new(spec: ModelSpec, situation: Situation) -> str | None:
    """Return why a candidate would be no newer than production, or None.

    Production may have been refitted through its as-of, while a candidate leaves out the holdout:
    until more partitions than that have come, it would be production over again.
    """
    through = situation.mature[-1 - spec.windows.holdout]
    if situation.production is None or through > situation.production.trained_through:
        return None
    return (
        f"a candidate would be trained on data through {through}, which are not newer than those "
        f"of production, through {situation.production.trained_through}"
    )
