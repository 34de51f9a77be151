"""Rows far out of training are found, alone as among others, and the same each time."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_series_equal

from retrain_assets.domain.model.outliers import Detector, fit_detector

COUNT = 4000


def rows(seed: int, count: int = COUNT) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "x": random.normal(size=count),
            "y": [None if number % 50 == 0 else float(number % 7) for number in range(count)],
            "plan": random.choice(["basic", "plus", "pro"], count, p=[0.7, 0.2, 0.1]),
            "flag": random.random(count) < 0.5,
        }
    )


@pytest.fixture(scope="module")
def detector() -> Detector:
    return fit_detector(rows(0), rate=0.01, seed=0)


ORDINARY = {"x": 0.1, "y": 3.0, "plan": "basic", "flag": True}


@pytest.mark.parametrize(
    ("strange", "expected"),
    [
        ({}, False),
        ({"x": 9.0, "plan": "pro"}, True),
        ({"x": float("inf"), "y": None}, True),
        ({"x": -1e308, "plan": "pro"}, True),
        ({"x": None, "plan": "never seen"}, True),
        ({"x": None, "plan": None}, True),
    ],
)
def test_a_row_unlike_those_of_training_is_far_out(
    detector: Detector, strange: dict[str, object], expected: bool
) -> None:
    row = pl.DataFrame([ORDINARY | strange], schema=rows(0).schema)
    assert detector.far_out(row).to_list() == [expected]


def test_the_rate_is_the_share_of_training_rows_that_are_far_out(detector: Detector) -> None:
    assert detector.far_out(rows(0)).sum() == pytest.approx(0.01 * COUNT, abs=2)
    assert 0 < detector.far_out(rows(1)).mean() < 0.03  # type: ignore[operator]


def test_a_row_is_judged_alone_as_among_others_and_again_the_same(detector: Detector) -> None:
    batch = pl.concat(
        [rows(2, 40), pl.DataFrame([ORDINARY | {"x": 9.0, "y": None}], schema=rows(0).schema)]
    )
    together = detector.far_out(batch)
    assert together.any()
    for place in range(batch.height):
        assert detector.far_out(batch[place])[0] == together[place]
    assert_series_equal(fit_detector(rows(0), rate=0.01, seed=0).far_out(batch), together)


def test_no_rows_have_no_outliers(detector: Detector) -> None:
    assert detector.far_out(rows(0).clear()).to_list() == []


def test_columns_that_tell_nothing_do_no_harm() -> None:
    dull = rows(0).with_columns(x=pl.lit(None, pl.Float64), plan=pl.lit("basic"), flag=pl.lit(True))
    found = fit_detector(dull, rate=0.01, seed=0).far_out(rows(1).with_columns(x=None))
    assert len(found) == COUNT
