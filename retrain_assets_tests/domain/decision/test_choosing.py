"""Of several candidates the best goes on, and is not promoted more easily for being chosen."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from retrain_assets.domain.decision.gate import Verdict, choose_best, compare
from retrain_assets.domain.metrics.intervals import bonferroni

HOLD, PROMOTE, REJECT = Verdict.HOLD, Verdict.PROMOTE, Verdict.REJECT


@pytest.mark.parametrize(
    ("verdicts", "gains", "place"),
    [
        ([HOLD, PROMOTE], [0.3, 0.1], 1),
        ([PROMOTE, PROMOTE, HOLD], [0.1, 0.2, 0.9], 1),
        ([REJECT, HOLD], [0.9, -0.1], 1),
        ([HOLD, HOLD], [math.nan, -0.1], 1),
        ([HOLD, HOLD], [math.nan, math.nan], 0),
        ([REJECT, REJECT], [-0.2, -0.2], 0),
        ([PROMOTE], [0.1], 0),
    ],
)
def test_the_best_of_those_that_pass_goes_on(
    verdicts: list[Verdict], gains: list[float], place: int
) -> None:
    assert choose_best(verdicts, gains) == place


def test_one_candidate_is_judged_as_sure_as_the_gate_says() -> None:
    assert bonferroni(0.9, 1) == pytest.approx(0.9)
    assert bonferroni(0.9, 2) == pytest.approx(0.95)


def promoted(seed: int, confidence: float) -> bool:
    """Whether any of four models that are as good as production is promoted."""
    random = np.random.default_rng(seed)
    blocks = pl.Series(np.repeat(np.arange(8), 5))
    target = random.normal(size=40)
    production, *ours = random.normal(size=(5, 40))
    return any(compare("mae", target, one, production, blocks, confidence).low > 0 for one in ours)


def test_choosing_the_best_of_four_promotes_no_more_than_is_stated() -> None:
    stated, seeds = 0.1, range(400)
    corrected = np.mean([promoted(seed, bonferroni(1 - 2 * stated, 4)) for seed in seeds])
    as_one = np.mean([promoted(seed, 1 - 2 * stated) for seed in seeds])
    assert corrected <= stated + 0.03  # two standard errors
    assert as_one > stated + 0.05
