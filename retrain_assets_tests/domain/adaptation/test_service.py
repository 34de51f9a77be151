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


def test_it_ends_once_it_has_lost_what_the_newest_version_loses_in_a_partition() -> None:
    """However well it did before, and whatever a test can show of a few bad partitions."""
    newest, good = [0.5] * 43, [0.4] * 40
    assert not assess(newest, [*good, 0.6, 0.8, 0.5], serves=True).changes
    standing = assess(newest, [*good, 0.7, 0.8, 0.6], serves=True)
    assert (standing.changes, standing.evidence < standing.needed) == (True, True)
    assert standing.sentence.endswith("loses in 1.2 partitions, and 1 is the most")
    assert not assess(newest, [*good, 0.7, 0.8, 0.6], serves=False).sentence.endswith("the most")


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
