"""The policy asks for retraining when there is a cause, and says why when it does not."""

from __future__ import annotations

import dataclasses
import math

import polars as pl
import pytest

from retrain_assets.domain.decision.situation import (
    HeldCandidate,
    Pause,
    Production,
    Request,
    Situation,
)
from retrain_assets.domain.decision.triggers import count_refusals, decide, foresee
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.state import MONITORING_SCHEMA

DAYS = tuple(f"2013-01-{day:02}" for day in range(1, 31))


def model(**triggers: object) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "m",
            "dataset": "d",
            "features": {"sql": "SELECT 1"},
            "target": {"column": "y", "kind": "binary"},
            "estimator": {"class": "sklearn.linear_model.LogisticRegression"},
            "windows": {"train": 10, "holdout": 5, "current": 3},
            "gate": {"metric": "log_loss"},
            "triggers": {"cooldown": 5, **triggers},
        }
    )


def monitored(
    *observations: tuple[str, str, str, float, float], day: str = DAYS[-1]
) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "_landing_partition": day,
                "role": role,
                "measure": measure,
                "column": column,
                "statistic": statistic,
                "threshold": threshold,
                "baseline": 0.5,
                "alert": statistic >= threshold,
                "model_version": 3,
                "window_to": day,
            }
            for role, measure, column, statistic, threshold in observations
        ],
        schema=MONITORING_SCHEMA,
    )


def situation(**changes: object) -> Situation:
    return dataclasses.replace(
        Situation(
            mature=DAYS,
            needed=15,
            recipe="same",
            production=Production(3, DAYS[19], DAYS[19], "same"),
            last_decision=DAYS[19],
            last_recipe="same",
            monitoring=monitored(),
        ),
        **changes,  # type: ignore[arg-type]
    )


def test_a_stable_model_is_left_alone() -> None:
    request = decide(model(), situation())
    assert (request.retrain, request.fired, request.reason) == (False, (), "no cause has fired")
    assert {cause.cause for cause in request.causes} >= {"performance", "data_drift", "spec_change"}


def test_a_pause_is_told_for_as_long_as_it_holds_whether_or_not_a_cause_has_fired() -> None:
    seen, due = situation(pause=Pause("2013-01-31", "audit", "the team")), {"new_partitions": 10}
    said = "paused until 2013-01-31 by the team (audit): "
    for wish, why in ((model(), "no cause has fired"), (model(**due), "10 new partitions")):
        request = decide(wish, seen)
        assert not request.retrain
        assert request.reason.startswith(said + why)
    assert decide(model(**due), situation(pause=Pause(DAYS[-1], "audit", "the team"))).retrain


def test_the_first_model_waits_for_enough_history_then_is_asked_for() -> None:
    fresh = {"production": None, "last_decision": None}
    short = decide(model(), situation(mature=DAYS[:14], **fresh))
    assert (short.retrain, short.reason) == (False, "14 of 15 partitions needed have landed")
    waiting = decide(model(), situation(mature=DAYS[:14], unbuilt=2, **fresh)).reason
    assert waiting.startswith("14 of 15 partitions needed are ready; 2 more have landed: ")
    request = decide(model(), situation(mature=DAYS[:15], **fresh))
    assert (request.retrain, request.fired, request.as_of) == (True, ("no_production",), DAYS[14])


DRIFT = {"measure": "psi", "threshold": 0.2}
MANY = (("feature", "psi", "a", 0.9, 0.2), ("feature", "psi", "b", 0.1, 0.2))


@pytest.mark.parametrize(
    ("trigger", "role"),
    [("data_drift", "feature"), ("prediction_drift", "prediction"), ("target_drift", "target")],
)
def test_drift_is_a_cause_of_its_own_kind(trigger: str, role: str) -> None:
    seen = situation(monitoring=monitored((role, "psi", "a", 0.3, 0.2)))
    request = decide(model(**{trigger: DRIFT}), seen)
    assert (request.retrain, request.fired) == (True, (trigger,))
    assert "a 0.30" in request.reason


def test_drift_of_few_columns_is_no_cause_when_a_share_is_asked() -> None:
    seen = situation(monitoring=monitored(*MANY))
    assert decide(model(data_drift={**DRIFT, "share": 0.4}), seen).retrain
    assert not decide(model(data_drift={**DRIFT, "share": 0.5}), seen).retrain


def test_drift_at_a_rate_is_told_by_its_p_value_and_the_column_farthest_out() -> None:
    rare = model(data_drift={"false_alarms_per_year": 2})
    assert not decide(rare, situation()).retrain
    calm = monitored(("feature", "p_value", "", 0.2, 0.005), ("feature", "ks", "x", 0.9, 0.3))
    rows = calm.with_columns(alert=pl.lit(value=False))
    assert decide(rare, situation(monitoring=rows)).fired == ()
    request = decide(rare, situation(monitoring=rows.with_columns(alert=pl.lit(value=True))))
    assert request.fired == ("data_drift",)
    assert request.reason == (
        "p is 0.2, and 0.005 or less is drift (2 false alarms a year); farthest is x: ks 0.9, "
        "threshold 0.3"
    )


def test_performance_below_its_limit_is_a_cause() -> None:
    watched = model(performance={"metric": "log_loss", "max_drop": 0.1})
    bad = situation(monitoring=monitored(("performance", "log_loss", "y", 0.7, 0.55)))
    good = situation(monitoring=monitored(("performance", "log_loss", "y", 0.5, 0.55)))
    assert decide(watched, bad).fired == ("performance",)
    assert not decide(watched, good).retrain


def test_what_has_no_value_at_promotion_is_said_to_be_unwatched() -> None:
    watched = model(performance={"metric": "roc_auc", "max_drop": 0.1})
    seen = monitored(("performance", "roc_auc", "y", 0.7, math.nan))
    found = decide(watched, situation(monitoring=seen.with_columns(alert=pl.lit(value=False))))
    assert not found.retrain
    (said,) = [cause.reason for cause in found.causes if cause.cause == "performance"]
    assert "undefined on the holdout of the promotion" in said


def test_alerts_about_an_earlier_version_or_window_are_not_counted() -> None:
    drifted = monitored(("feature", "psi", "a", 0.9, 0.2))
    spec = model(data_drift=DRIFT)
    other = situation(monitoring=drifted.with_columns(model_version=pl.lit(2, pl.Int64)))
    before = situation(monitoring=monitored(("feature", "psi", "a", 0.9, 0.2), day=DAYS[19]))
    assert not decide(spec, other).retrain
    assert not decide(spec, before).retrain


def test_only_the_newest_window_counts() -> None:
    passed = monitored(("feature", "psi", "a", 0.9, 0.2), day=DAYS[-2])
    now = monitored(("feature", "psi", "a", 0.1, 0.2), day=DAYS[-1])
    both = situation(monitoring=pl.concat([passed, now]))
    assert not decide(model(data_drift=DRIFT), both).retrain


def test_the_cooldown_holds_a_cause_back_and_says_so() -> None:
    seen = situation(
        last_decision=DAYS[25], monitoring=monitored(("feature", "psi", "a", 0.9, 0.2))
    )
    request = decide(model(data_drift=DRIFT), seen)
    assert (request.retrain, request.fired) == (False, ("data_drift",))
    assert "`triggers.cooldown` is 5" in request.reason


def test_a_candidate_that_would_see_no_newer_data_than_production_is_not_asked_for() -> None:
    seen = situation(
        production=Production(3, DAYS[-6], DAYS[-6], "same"),
        last_decision=DAYS[-6],
        monitoring=monitored(("feature", "psi", "a", 0.9, 0.2)),
    )
    request = decide(model(data_drift=DRIFT), seen)
    assert (request.retrain, request.fired) == (False, ("data_drift",))
    assert f"a candidate would be trained on data through {DAYS[-6]}" in request.reason
    newer = dataclasses.replace(seen, production=Production(3, DAYS[-6], DAYS[-7], "same"))
    assert decide(model(data_drift=DRIFT), newer).retrain


def test_nothing_is_decided_twice_as_of_one_partition() -> None:
    seen = situation(
        last_decision=DAYS[-1], monitoring=monitored(("feature", "psi", "a", 0.9, 0.2))
    )
    assert not decide(model(data_drift=DRIFT, cooldown=0), seen).retrain


def test_a_changed_spec_does_not_wait_for_the_cooldown() -> None:
    request = decide(model(), situation(last_decision=DAYS[-1], recipe="other"))
    assert (request.retrain, request.fired) == (True, ("spec_change",))
    assert request.reason.startswith("the YAML has changed")
    code = decide(model(), situation(last_decision=DAYS[-1], recipe="same.code"))
    assert code.reason.startswith("the user's code has changed")
    assert not decide(model(spec_change=False), situation(recipe="other")).retrain
    tried = situation(last_decision=DAYS[-1], recipe="other", last_recipe="other")
    assert not decide(model(), tried).retrain


def test_where_the_first_candidate_was_held_a_changed_recipe_or_gate_is_tried_at_once() -> None:
    first = situation(production=None, last_decision=DAYS[-1], last_gate=model().gate_digest)
    request = decide(model(), first)
    assert not request.retrain
    assert request.reason.startswith("0 partitions since the last decision")
    assert decide(model(), dataclasses.replace(first, recipe="other")).retrain
    gate = {"metric": "log_loss", "min_blocks": 2}
    mended = ModelSpec.model_validate(model().model_dump() | {"gate": gate})
    assert decide(mended, first).fired == ("no_production",)
    assert decide(mended, first).retrain
    tried = dataclasses.replace(first, last_gate=mended.gate_digest)
    assert not decide(mended, tried).retrain, "what was tried waits like everything else"
    unknown = dataclasses.replace(first, last_gate=None)
    assert not decide(mended, unknown).retrain, "an old row does not say which gate decided"


def test_a_changed_spec_does_not_back_off() -> None:
    refused = {"no_production": 3, "spec_change": 3}
    spec = model(back_off=1)
    first = situation(production=None, last_decision=DAYS[-1], refusals=refused)
    assert "without promotion" in decide(spec, first).causes[0].reason
    assert decide(spec, dataclasses.replace(first, recipe="other")).retrain
    assert decide(spec, situation(last_decision=DAYS[-1], recipe="other", refusals=refused)).retrain


def test_new_partitions_are_counted_since_the_last_decision() -> None:
    assert decide(model(new_partitions=10), situation()).fired == ("new_partitions",)
    assert not decide(model(new_partitions=11), situation()).retrain


def test_the_same_situation_is_decided_the_same() -> None:
    def once() -> Request:
        return decide(model(data_drift=DRIFT), situation(monitoring=monitored(*MANY)))

    assert once() == once()


def days(*windows: pl.DataFrame) -> pl.DataFrame:
    return pl.concat(windows)


def fallen(day: int, value: float = 0.7, role: str = "performance") -> pl.DataFrame:
    return monitored((role, "log_loss", "y", value, 0.55), day=DAYS[day])


FALL = {"metric": "log_loss", "max_drop": 0.1}


@pytest.mark.parametrize("role", ["feature", "prediction", "target"])
def test_drift_without_harm_is_noted_and_asks_for_nothing(role: str) -> None:
    cause = {"feature": "data_drift"}.get(role, f"{role}_drift")
    moved = monitored((role, "psi", "a", 0.3, 0.2))
    seen = situation(monitoring=days(moved, fallen(-1, 0.5)))
    request = decide(model(performance=FALL, **{cause: DRIFT}), seen)
    assert not request.retrain
    (said,) = [found.reason for found in request.causes if found.cause == cause]
    assert said.startswith(
        "drift does not count while performance holds (log_loss 0.5): psi is 0.2"
    )
    whatever = {**DRIFT, "although_performance_holds": True}
    assert decide(model(performance=FALL, **{cause: whatever}), seen).fired == (cause,)
    older = situation(monitoring=days(moved, fallen(-2, 0.5)))  # of this window nothing is known
    assert decide(model(performance=FALL, **{cause: DRIFT}), older).fired == (cause,)


def test_drift_is_not_taken_for_harmless_while_the_fall_is_only_not_yet_sure() -> None:
    moved, fell = monitored(("feature", "psi", "a", 0.3, 0.2)), fallen(-1, 0.6)
    unsure = fell.with_columns(alert=pl.lit(value=False))
    seen = situation(monitoring=days(moved, unsure))
    sure = {**FALL, "confidence": 0.95}
    assert decide(model(performance=sure, data_drift=DRIFT), seen).fired == ("data_drift",)


def test_what_was_monitored_before_a_trigger_was_changed_is_judged_by_the_new_one() -> None:
    seen = situation(monitoring=monitored(("feature", "psi", "a", 0.3, 0.5)))
    assert decide(model(data_drift={"measure": "psi", "threshold": 0.2}), seen).retrain
    assert not decide(model(data_drift={"measure": "psi", "threshold": 0.4}), seen).retrain
    rare = decide(model(data_drift={"false_alarms_per_year": 2}), seen)
    assert not rare.retrain
    other = {**FALL, "metric": "brier"}
    assert not decide(model(performance=other), situation(monitoring=fallen(-1))).retrain
    assert decide(model(performance=FALL), situation(monitoring=fallen(-1))).retrain


def test_a_rate_goes_by_the_windows_since_it_is_asked_for() -> None:
    old = monitored(("feature", "psi", "a", 0.3, 0.5), day=DAYS[-2])
    new = monitored(("feature", "p_value", "", 0.9, 0.005)).with_columns(alert=pl.lit(value=True))
    lasting = {"alerts": 1, "of": 5}
    request = decide(
        model(data_drift={"false_alarms_per_year": 2}, lasting=lasting),
        situation(monitoring=days(old, new)),
    )
    assert request.fired == ("data_drift",)
    assert request.reason.endswith("holds in 1 of 1 windows, and must hold in 1")


def test_a_fall_while_nothing_moved_is_told_as_concept_drift() -> None:
    still = monitored(("feature", "psi", "a", 0.1, 0.2))
    seen = situation(monitoring=days(still, fallen(-1)))
    assert decide(model(performance=FALL, data_drift=DRIFT), seen).reason.endswith(
        "; data_drift has not fired, so the relation of the features to the target may have changed"
    )
    moved = monitored(("feature", "psi", "a", 0.3, 0.2))
    both = decide(
        model(performance=FALL, data_drift=DRIFT), situation(monitoring=days(moved, fallen(-1)))
    )
    assert both.fired == ("performance", "data_drift")
    assert "has not fired" not in both.reason


def test_an_estimate_counts_once_it_has_been_right() -> None:
    spec, bad = model(performance=FALL), fallen(-1, 0.7, "estimated")

    def asked(*before: pl.DataFrame) -> Request:
        return decide(spec, situation(monitoring=days(bad, *before)))

    unknown = asked()
    assert not unknown.retrain
    (said,) = [cause.reason for cause in unknown.causes if cause.cause == "performance"]
    assert "has not been compared with labels yet, so it is not acted on" in said
    right = asked(fallen(-3, 0.50), fallen(-3, 0.51, "estimated"))
    assert right.fired == ("performance",)
    assert "was wrong by 0.01 on average in 1 window, and a fall of 0.05 counts" in right.reason
    assert not asked(fallen(-3, 0.50), fallen(-3, 0.56, "estimated")).retrain


def test_a_window_whose_labels_came_later_is_the_one_it_ends_in() -> None:
    """Monitored with the newest day, but of a window that ended two days before."""
    late = fallen(-1, 0.5).with_columns(window_to=pl.lit(DAYS[-3]))
    bad = fallen(-1, 0.7, "estimated")
    right = days(bad, late, fallen(-3, 0.51, "estimated"))
    assert decide(model(performance=FALL), situation(monitoring=right)).retrain
    moved = monitored(("feature", "psi", "a", 0.3, 0.2))
    unknown = situation(monitoring=days(moved, late))
    assert decide(model(performance=FALL, data_drift=DRIFT), unknown).fired == ("data_drift",)


def test_labels_that_came_count_and_not_the_estimate() -> None:
    seen = days(
        fallen(-1, 0.5),
        fallen(-1, 0.7, "estimated"),
        *[fallen(-3, 0.5, role) for role in ("performance", "estimated")],
    )
    assert not decide(model(performance=FALL), situation(monitoring=seen)).retrain


@pytest.mark.parametrize(("falls", "wanted"), [((-1, -2), True), ((-1,), False), ((-2, -3), True)])
def test_a_signal_may_have_to_last(falls: tuple[int, ...], *, wanted: bool) -> None:
    spec = model(performance=FALL, lasting={"alerts": 2, "of": 3})
    seen = days(*(fallen(day, 0.7 if day in falls else 0.5) for day in (-1, -2, -3, -4)))
    request = decide(spec, situation(monitoring=seen))
    assert request.retrain is wanted
    (said,) = [cause.reason for cause in request.causes if cause.cause == "performance"]
    assert f"holds in {len(falls)} of 3 windows, and must hold in 2" in said


def test_all_signals_may_have_to_agree() -> None:
    spec = model(performance=FALL, prediction_drift=DRIFT, require="all")
    alone = decide(spec, situation(monitoring=fallen(-1)))
    assert not alone.retrain
    waits = "; `require: all` also waits for prediction_drift"
    assert any(cause.reason.endswith(waits) for cause in alone.causes)
    moved = monitored(("prediction", "psi", "p", 0.3, 0.2))
    both = decide(spec, situation(monitoring=days(moved, fallen(-1))))
    assert both.fired == ("performance", "prediction_drift")
    aged = model(performance=FALL, prediction_drift=DRIFT, require="all", new_partitions=10)
    assert decide(aged, situation()).fired == ("new_partitions",)


def test_a_cause_whose_candidates_are_refused_backs_off() -> None:
    """Ten partitions lie behind the last decision; the cooldown of five doubles with each."""
    spec = model(new_partitions=5, back_off=2)
    for refused, wanted in ((1, True), (2, True), (3, False)):
        request = decide(spec, situation(refusals={"new_partitions": refused}))
        assert request.retrain is wanted
    said = [cause.reason for cause in request.causes if cause.cause == "new_partitions"]
    assert said[0].startswith(
        "after 3 candidates without promotion, 10 of 20 partitions have come: "
    )
    assert decide(spec, situation(refusals={"data_drift": 9})).retrain


def test_refusals_are_counted_since_the_last_candidate_that_was_taken() -> None:
    decided = [
        ("hold", ("a",)),
        ("promote", ("a", "b")),
        ("reject", ("a", "b")),
        ("stage", ("b",)),
        ("hold", ("a",)),
        ("rollback", ()),
    ]
    assert count_refusals(decided) == {"a": 2, "b": 1}
    assert count_refusals([*decided, ("approve", ("b",))]) == {}


HELD = HeldCandidate(version=4, more_partitions=8)


def test_a_held_candidate_is_judged_again_when_the_partitions_it_takes_have_come() -> None:
    early = decide(model(), situation(held_candidate=HELD, last_decision=DAYS[-8]))
    assert (early.retrain, early.held_version) == (False, None)
    request = decide(model(), situation(held_candidate=HELD, last_decision=DAYS[-9]))
    assert (request.retrain, request.fired, request.held_version) == (True, ("held",), 4)
    assert request.reason == "the 8 partitions that version 4 was held for have come"


def test_a_second_look_waits_for_the_cooldown_like_any_other() -> None:
    request = decide(model(cooldown=9), situation(held_candidate=HELD, last_decision=DAYS[-9]))
    assert (request.retrain, request.held_version) == (False, None)


def test_other_causes_wait_for_a_held_candidate() -> None:
    new = model(new_partitions=6)
    early = decide(new, situation(held_candidate=HELD, last_decision=DAYS[-8]))
    assert not early.retrain
    waits = "version 4 is held until 8 more partitions have come, and 7 have come so far: 7 new"
    assert early.reason.startswith(waits)
    due = decide(new, situation(held_candidate=HELD, last_decision=DAYS[-9]))
    assert (due.retrain, due.fired, due.held_version) == (True, ("held", "new_partitions"), 4)


def test_nothing_waits_for_a_held_candidate_while_performance_is_beyond_its_limit() -> None:
    limits = model(
        new_partitions=6, performance={"metric": "log_loss", "limit": 0.6}, back_off=2, cooldown=5
    )
    fallen = monitored(("performance", "log_loss", "", 0.7, 0.6))
    held = situation(held_candidate=HELD, last_decision=DAYS[-8], monitoring=fallen)
    request = decide(limits, held)
    assert (request.retrain, request.held_version) == (True, None)
    assert request.fired == ("performance", "new_partitions")
    assert decide(limits, dataclasses.replace(held, refusals={"performance": 2})).retrain
    due = dataclasses.replace(held, last_decision=DAYS[-9])
    assert decide(limits, due).held_version == HELD.version
    early = dataclasses.replace(held, last_decision=DAYS[-3])
    request = decide(limits, early)
    assert not request.retrain
    assert foresee(limits, early, request).partitions == 3
    holds = monitored(("performance", "log_loss", "", 0.5, 0.6))
    assert not decide(limits, dataclasses.replace(held, monitoring=holds)).retrain


def test_a_held_candidate_that_would_take_too_long_is_not_waited_for() -> None:
    far = situation(
        held_candidate=HeldCandidate(version=4, more_partitions=11), last_decision=DAYS[9]
    )
    request = decide(model(new_partitions=6), far)
    assert (request.retrain, request.fired, request.held_version) == (
        True,
        ("new_partitions",),
        None,
    )
    said = {cause.cause: cause.reason for cause in request.causes}["held"]
    assert said == (
        "version 4 would need 11 more partitions, which is more than 2 times "
        "`windows.holdout`, so it is not waited for"
    )


AWAITED = {"held_candidate": HeldCandidate(4, 10), "mature": DAYS[:28]}
LATER = (*DAYS, *(f"2013-02-{day:02}" for day in range(1, 29)))
REFITTED = {"production": Production(3, DAYS[26], DAYS[26], "same")}


@pytest.mark.parametrize(
    ("triggers", "changes", "partitions", "reason"),
    [
        ({}, {}, None, "no decision is due before a cause fires"),
        ({"new_partitions": 14}, {}, 4, "when 14 have come since the last decision"),
        ({"new_partitions": 14}, AWAITED, 2, "when version 4, which is held, is"),
        ({"new_partitions": 14, "cooldown": 18}, AWAITED, 10, "when version 4"),
        ({"new_partitions": 14, "cooldown": 18}, {}, 8, "when 14 have come"),
        ({"new_partitions": 3}, REFITTED, 3, "when the cause that has fired has"),
        ({"new_partitions": 10}, {}, 0, "10 new partitions since the last decision, and 10 are"),
        ({"new_partitions": 9, "cooldown": 12}, {}, 2, "when the cause that has fired has"),
        ({}, {"mature": DAYS[:9]}, 6, "when the windows of the first model are full"),
        ({}, {**AWAITED, "shortage": "9 rows"}, None, "no decision is due before the segment"),
    ],
)
def test_the_next_decision_is_foreseen(
    triggers: dict[str, object],
    changes: dict[str, object],
    partitions: int | None,
    reason: str,
) -> None:
    spec, facts = model(**triggers), situation(**changes)
    expected = foresee(spec, facts, decide(spec, facts))
    assert expected.partitions == partitions
    assert expected.reason.startswith(reason)


def test_what_is_foreseen_is_what_is_decided() -> None:
    spec = model(new_partitions=14, cooldown=6)
    for day in range(21, 30):
        facts = situation(mature=DAYS[:day])
        expected = foresee(spec, facts, decide(spec, facts)).partitions
        wait = next(
            n for n in range(99) if decide(spec, situation(mature=LATER[: day + n])).retrain
        )
        assert expected == wait
