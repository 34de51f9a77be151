"""What moved predictions is compared over partitions, and what cannot be explained says so."""

from __future__ import annotations

import polars as pl
import pytest
from scipy.stats import t

from retrain_assets.domain.model.explanation import Explainer, compare_moves
from retrain_assets.domain.model.pipeline import build_pipeline
from retrain_assets.specs.model import EstimatorSpec


def test_changes_have_an_interval_over_partitions() -> None:
    now = pl.DataFrame({"x": [2.0, 4.0, 6.0, 8.0], "new": [1.0] * 4})
    before = pl.DataFrame({"x": [1.0, 1.0, 2.0, 2.0]})
    blocks = pl.Series("day", ["a", "a", "b", "b"])
    change, other = compare_moves(now, before, blocks, 0.9)
    assert change["feature"] == "x"
    assert (change["now"], change["before"], change["change"]) == (5.0, 1.5, 3.5)
    # The partitions differ by 2 and 5: the error of their mean is 1.5.
    half = t.ppf(0.95, 1) * 1.5
    assert (change["low"], change["high"]) == pytest.approx((3.5 - half, 3.5 + half))
    assert (other["feature"], other["change"], other["before"]) == ("new", 1.0, 0.0)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("sklearn.linear_model.LogisticRegression", "does not see the features themselves"),
        ("sklearn.ensemble.RandomForestClassifier", "does not see the features themselves"),
    ],
)
def test_what_cannot_be_explained_says_why(path: str, reason: str) -> None:
    rows = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0]})
    spec = EstimatorSpec.model_validate({"class": path})
    pipeline = build_pipeline(spec, rows.schema, 0).fit(rows, [0, 1, 0, 1])
    with pytest.raises(ValueError, match=reason):
        Explainer(pipeline)
