"""The prediction intervals of a version, from the stored summaries of its errors.

What is stored is a summary of the absolute errors of each partition; intervals follow from these
whenever they are asked for, so that monitoring and serving agree, and a corrected label corrects
them. Not here: the statistics.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import polars as pl

from retrain_assets.domain import windows
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.profile import PROFILE_SCHEMA, read_sketch
from retrain_assets.domain.model.conformal import Errors, Interval, adapt
from retrain_assets.steps.decision.train import PREDICTION_COLUMN
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import History, LedgerRow

ERROR = "error"
BLOCK = "block"  # the partition that a summary of expected output is of


def list_outputs(state: ModelState) -> Iterator[pl.Expr]:
    """Yield the columns of predictions that are summarised, of rows with their label."""
    yield pl.col(PREDICTION_COLUMN)
    if state.spec.intervals is not None:
        yield (pl.col(PREDICTION_COLUMN) - pl.col("label")).abs().alias(ERROR)


class Covered(NamedTuple):
    """The share of a partition's labels that its intervals contain, and how many labels it has."""

    key: str
    share: float
    rows: int


@dataclass(frozen=True)
class Timeline:
    """The intervals of one version.

    Args:
        keys: The partitions that it served, in order.
        errors: Its errors on each.
        intervals: The interval of each, and of the next partition.
    """

    keys: Sequence[str]
    errors: Sequence[Errors]
    intervals: Sequence[Interval]

    @property
    def next(self) -> float | None:
        """Return how far the intervals of the next partition reach; None if that is unknown."""
        return self.intervals[-1].half_width if self.intervals[-1].calibration else None

    def half_width(self, key: str) -> float | None:
        """Return how far the intervals of a partition reach; None if that is unknown."""
        interval = self.intervals[self.keys.index(key)] if key in self.keys else None
        return interval.half_width if interval and interval.calibration else None

    def reference(self, key: str) -> list[float]:
        """Return the share within the interval of a partition, of each that it was taken from."""
        interval = self.intervals[self.keys.index(key)]
        return [errors.share_within(interval.half_width) for errors in interval.calibration]

    def list_covered(self, key: str, delay: int) -> list[Covered]:
        """List the partitions up to one that have an interval and final labels."""
        final = windows.mature_partitions([part for part in self.keys if part <= key], delay)
        return [covered for covered in self._covered if final and covered.key <= final[-1]]

    @cached_property
    def _covered(self) -> list[Covered]:
        """Return the share of each partition that has an interval and labels."""
        parts = zip(self.keys, self.errors, self.intervals, strict=False)
        return [
            Covered(part, errors.share_within(interval.half_width), errors.rows)
            for part, errors, interval in parts
            if errors.rows and interval.calibration
        ]


def read_timeline(state: ModelState, history: History, row: LedgerRow) -> Timeline | None:
    """Return the intervals of the version of a decision; None if the model has no intervals."""
    spec = state.spec
    if spec.intervals is None:
        return None
    is_error = pl.col("column") == ERROR
    stored = state.stored("prediction_profile", PROFILE_SCHEMA, is_error)
    served = {
        key: errors
        for key, errors in _read_errors(stored, PARTITION).items()
        if history.production_at(key) == row and not state.is_excluded(key)
    }
    before: list[Errors] = []
    if row.candidate is not None:
        expected = state.tables.read(state.table("reference"), [str(row.candidate)])
        before = [*_read_errors(expected.filter(is_error), BLOCK).values()]
    lengths = spec.labels.delay, spec.windows.holdout
    intervals = adapt(spec.intervals.coverage, before, [*served.values()], *lengths)
    return Timeline([*served], [*served.values()], intervals)


def _read_errors(rows: pl.DataFrame, by: str) -> dict[str, Errors]:
    """Return the errors of each partition, in order."""
    parts = rows.sort(by).select(by, "sketch").iter_rows()
    return {key: Errors(*read_sketch(sketch)) for key, sketch in parts}
