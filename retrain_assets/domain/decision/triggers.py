"""The triggering policy: what was seen in, whether to retrain and why out.

Pure and counted in partitions of the data, so that a replay decides what the live system decided.
Not here: what each cause looks for, and asking Dagster for a run.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from retrain_assets.domain.decision.causes import CAUSES, explain_wait, find_awaited_candidate
from retrain_assets.domain.decision.situation import Cause, Pause, Request, Situation
from retrain_assets.domain.windows import count_since
from retrain_assets.specs.model import ModelSpec

REFUSED, TAKEN = ("hold", "reject"), ("promote", "approve")
CHANGE_CAUSES = {"no_production", "spec_change"}  # by which a change of the YAML is tried at once


def decide(spec: ModelSpec, situation: Situation) -> Request:
    """Look at each cause and say whether to retrain.

    Args:
        spec: The model.
        situation: What is known.

    Returns:
        The request; `retrain` is false with a reason when no cause fired, history is too short, a
        person paused it, the last decision is younger than `triggers.cooldown`, or what it held
        is yet to be judged again.
    """
    if len(situation.mature) < situation.needed:
        ready = f"{len(situation.mature)} of {situation.needed} partitions needed"
        short = f"{ready} have landed"
        if situation.unbuilt:
            short = (
                f"{ready} are ready; {situation.unbuilt} more have landed: the sensor of "
                f"{spec.name} or `retrain backfill {spec.name}` monitors them"
            )
        return Request(retrain=False, reason=short, as_of=None, causes=())
    as_of = situation.mature[-1]
    causes = tuple(
        Cause(name, fired=fired, reason=reason, as_of=as_of)
        for name, rule in CAUSES.items()
        for fired, reason in [rule(spec, situation)]
    )
    causes = tuple(_allowed(spec, situation, cause, causes) for cause in causes)
    fired = [cause for cause in causes if cause.fired]
    reason = "; ".join(cause.reason for cause in fired) or "no cause has fired"
    pause = situation.pause
    paused = pause is not None and as_of < pause.until
    if pause is not None and paused:
        reason = f"{_said(pause)}: {reason}"
    if paused or not fired:
        return Request(retrain=False, reason=reason, as_of=as_of, causes=causes)
    held = find_awaited_candidate(spec, situation)
    unready = explain_wait(situation, held) if held else _nothing_new(spec, situation)
    waiting = _cooling_down(spec, situation) or unready
    changed = CHANGE_CAUSES.intersection(cause.cause for cause in fired)
    if waiting and not (changed and _is_untried(spec, situation)):
        return Request(retrain=False, reason=f"{waiting}: {reason}", as_of=as_of, causes=causes)
    again = held.version if held else None
    return Request(retrain=True, reason=reason, as_of=as_of, causes=causes, held_version=again)


def count_refusals(decided: Iterable[tuple[str, Iterable[str]]]) -> dict[str, int]:
    """How often each cause asked for a candidate that was refused, since one was taken.

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


def _allowed(
    spec: ModelSpec, situation: Situation, cause: Cause, causes: tuple[Cause, ...]
) -> Cause:
    """The cause, which does not fire where others would have to as well, or while it backs off."""
    signals = spec.triggers.signals
    if not cause.fired:
        return cause
    if spec.triggers.require == "all" and cause.cause in signals:
        missing = [other.cause for other in causes if other.cause in signals and not other.fired]
        if missing:
            return replace(cause, fired=False, reason=f"{cause.reason}; not {', '.join(missing)}")
    waits = _backs_off(spec, situation, cause.cause)
    return replace(cause, fired=False, reason=f"{waits}: {cause.reason}") if waits else cause


def _is_untried(spec: ModelSpec, situation: Situation) -> bool:
    """Return whether a person has changed recipe or gate since the newest decision.

    Such a change is tried at once, and then waits like everything else.
    """
    gate_is_new = situation.last_gate not in {None, spec.gate_digest}
    return gate_is_new or situation.last_recipe != situation.recipe


def _backs_off(spec: ModelSpec, situation: Situation, cause: str) -> str | None:
    allowed, refused = spec.triggers.back_off, situation.refusals.get(cause, 0)
    if allowed is None or refused < allowed or situation.last_decision is None:
        return None
    if cause in CHANGE_CAUSES and _is_untried(spec, situation):
        return None
    wait = max(spec.triggers.cooldown, 1) * 2 ** (refused - allowed + 1)
    since = count_since(situation.mature, situation.last_decision)
    if since >= wait:
        return None
    return f"backs off after {refused} candidates not promoted, {since} of {wait} partitions"


def _said(pause: Pause) -> str:
    return f"paused until {pause.until} by {pause.by} ({pause.reason})"


def _cooling_down(spec: ModelSpec, situation: Situation) -> str | None:
    if situation.last_decision is None:
        return None
    since = count_since(situation.mature, situation.last_decision)
    # A decision is made once an as-of, however short the cooldown.
    if since >= max(spec.triggers.cooldown, 1):
        return None
    return f"{since} partitions since the last decision, cooldown is {spec.triggers.cooldown}"


def _nothing_new(spec: ModelSpec, situation: Situation) -> str | None:
    """Whether the candidate's training window would end no later than production's.

    Production may have been refitted through its as-of, while a candidate leaves out the holdout:
    until more partitions than that have come, it would be production over again.
    """
    through = situation.mature[-1 - spec.windows.holdout]
    if situation.production is None or through > situation.production.trained_through:
        return None
    return (
        f"production was trained through {situation.production.trained_through}, "
        f"a candidate would be through {through}"
    )
