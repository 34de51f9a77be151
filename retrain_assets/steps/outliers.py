"""Rows of features that lie far out of what production was trained on, marked as they are built.

A partition is held against the version in production when it arrived, so that marks do not change
when another is promoted. Not here: the forest, and what is done about such rows.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import polars as pl

from retrain_assets.domain.outliers import MAX_ROWS, OUTLIER, fit_detector
from retrain_assets.steps.state import by_production

if TYPE_CHECKING:
    from retrain_assets.domain.outliers import Detector
    from retrain_assets.specs.model import OutliersSpec
    from retrain_assets.steps.rows import Rows
    from retrain_assets.stores.ledger import History


class Marker:
    """Marks rows, with one forest for each training window, fitted when it is first needed."""

    def __init__(self, rows: Rows, ledger: History, spec: OutliersSpec) -> None:
        self.rows, self.ledger, self.spec = rows, ledger, spec
        self._detector = cache(self._fitted)

    def marked(self, table: pl.DataFrame) -> pl.DataFrame:
        """Sorted rows of features with `_outlier`: null where nothing was in production yet."""
        parts = [table.clear().with_columns(pl.lit(None, pl.Boolean).alias(OUTLIER))]
        for production, part in by_production(self.ledger, table):
            detector = self._detector(production.data_range) if production else None
            rows = part.select(self.rows.state.feature_names)
            far_out = detector.far_out(rows) if detector else pl.lit(None, pl.Boolean)
            parts.append(part.with_columns(far_out.alias(OUTLIER)))
        return pl.concat(parts)

    def _fitted(self, data_range: tuple[str, str]) -> Detector | None:
        """None where nothing is left of the training window."""
        state = self.rows.state
        keys = state.trained_on(tuple(self.rows.counts), data_range)
        if not sum(self.rows.counts[key] for key in keys):
            return None
        sampled = self.rows.sample(keys, MAX_ROWS).select(state.feature_names)
        return fit_detector(sampled, self.spec.rate, state.spec.seed)
