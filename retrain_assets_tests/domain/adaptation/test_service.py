"""The layer begins to serve when it is shown not to be worse, and ends when it is shown to be."""

import numpy as np
import pytest

from retrain_assets.domain.adaptation.service import assess
from retrain_assets.specs.partition import PERIODS

RANDOM = np.random.default_rng(0)
NEWEST = 0.5 + 0.05 * RANDOM.normal(size=80)
NOISE = 0.01 * RANDOM.normal(size=80)


@pytest.mark.parametrize(
    ("gain", "days", "serves", "changes"),
    [
        (0.02, 42, False, True),
        (0.02, 27, False, False),  # four weeks are needed
        (-0.008, 80, False, False),
        (-0.02, 80, False, False),
        (-0.02, 42, True, True),
        (0.02, 80, True, False),
        (-0.05, 12, True, True),  # so much worse that it does not wait for weeks
        (-0.05, 12, False, False),
        (0.0, 0, False, False),
        (0.0, 0, True, False),
    ],
)
def test_a_change_follows_from_what_was_shown(
    gain: float, days: int, *, serves: bool, changes: bool
) -> None:
    newest = NEWEST[:days]
    standing = assess(newest.tolist(), (newest - gain - NOISE[:days]).tolist(), serves=serves)
    assert (standing.changes, standing.serves, standing.partitions) == (changes, serves, days)


def test_it_ends_once_it_has_lost_the_loss_of_a_partition_and_a_tenth_of_its_gains() -> None:
    """However well it did before, and whatever a test can show of a few bad partitions."""
    newest, good = [0.5] * 43, [0.4] * 40  # so it gained 8 times the mean loss, and may lose 1.8
    assert not assess(newest, [*good, 0.8, 0.8, 0.75], serves=True).changes
    standing = assess(newest, [*good, 0.8, 0.9, 0.8], serves=True)
    assert (standing.changes, standing.evidence < standing.needed) == (True, True)
    assert standing.sentence.endswith(
        "; since it was best, it has lost 2 times the mean loss of a partition more than the "
        "newest version alone, and 1.8 times is allowed"
    )
    assert not assess(newest, [*good, 0.8, 0.9, 0.8], serves=False).sentence.endswith("is allowed")
    assert assess([0.5] * 3, [0.7, 0.7, 0.65], serves=True).changes


def test_gains_that_come_in_bursts_do_not_keep_it_out() -> None:
    """A few good weeks, or gains that grow, are no reason to doubt that it is not worse."""
    newest = NEWEST.tolist()
    bursts = [0.3 if day % 28 > 20 else 0.0 for day in range(80)]
    growing = [0.001 * day for day in range(80)]
    for gains in (bursts, growing):
        layer = [loss - gain for loss, gain in zip(newest, gains, strict=True)]
        assert assess(newest[:42], layer[:42], serves=False).changes
    is_bad = [day % 28 > 20 for day in range(80)]  # the same bursts, the other way round
    layer = [loss + 0.3 * bad for loss, bad in zip(newest, is_bad, strict=True)]
    assert not any(
        assess(newest[:days], layer[:days], serves=False).changes for days in range(42, 80)
    )


def test_gains_that_are_all_equal_are_evidence() -> None:
    cases = ((28, 0.45, True), (27, 0.45, False), (28, 0.52, False))
    for days, layer, changes in cases:
        assert assess([0.5] * days, [layer] * days, serves=False).changes is changes


def test_it_ends_where_the_newest_version_loses_nothing_and_the_layer_does() -> None:
    assert assess([0.0] * 3, [0.0, 0.0, 0.1], serves=True).changes is True
    assert assess([0.0] * 3, [0.0] * 3, serves=True).changes is False


def test_partitions_that_are_weeks_are_no_stretches() -> None:
    newest, layer = NEWEST.tolist(), (NEWEST - 0.04 - NOISE).tolist()
    weeks = {name: period.per_week for name, period in PERIODS.items()}
    assert weeks == {"hour": 168, "day": 7, "week": 1, "month": 1, "year": 1}
    changes = {
        name: assess(newest[:12], layer[:12], serves=False, week=week).changes
        for name, week in weeks.items()
    }
    assert changes == {"hour": False, "day": False, "week": True, "month": True, "year": True}


def test_a_layer_that_is_worse_by_less_than_the_margin_may_serve() -> None:
    worse = NEWEST * 1.0005
    noise = 0.0002 * RANDOM.normal(size=80)
    assert assess(NEWEST.tolist(), (worse + noise).tolist(), serves=False).changes


def test_a_sentence_gives_the_figures() -> None:
    newest = [0.5, 0.6, 0.4]
    assert assess(newest, [0.4, 0.5, 0.3], serves=False).sentence == (
        "on 3 partitions since its comparison began, its mean loss is lower by 0.1 than that of "
        "the newest version alone; evidence that it is not worse: 1, needed 10"
    )
    assert assess([], [], serves=False).sentence == "no partition is compared yet"
    assert "higher by 0.1 than" in assess(newest, [0.6, 0.7, 0.5], serves=True).sentence
