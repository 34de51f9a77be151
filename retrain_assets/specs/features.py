"""The YAML of what a model sees: the lookups joined to a row, the features, and the target.

Not here: joining, and computing features.
"""

from typing import Literal

from pydantic import Field

from retrain_assets.specs.base import Duration, Mistakes, Name, Spec, duration

Kind = Literal["binary", "multiclass", "regression"]
PYTHON_REFERENCE = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


class LookupSpec(Spec):
    """A dataset whose columns are joined to each row, by the times that stand in its rows.

    Args:
        on: Columns that must be equal in both datasets.
        as_of: Time column of both datasets; the newest row that is at least `lag` older is joined.
        lag: Time until a row of the lookup is known, its delivery included.
        tolerance: Rows of the lookup that are older than the row by more than this are not
            joined.
        lateness: Number of newer partitions after which a late one is not waited for.
    """

    on: list[str] = Field(min_length=1)
    as_of: str | None = None
    lag: Duration = "0s"
    tolerance: Duration | None = None
    lateness: int = Field(1, ge=0)

    def _find_mistakes(self) -> Mistakes:
        if self.as_of is None and (self.tolerance is not None or duration(self.lag)):
            yield "`lag` and `tolerance` need `as_of`"
        if self.tolerance is not None and duration(self.tolerance) < duration(self.lag):
            yield f"tolerance {self.tolerance} is below lag {self.lag}: nothing matches"


class FeaturesSpec(Spec):
    """The features of a row after the joins, written in SQL or as a Python function.

    Args:
        sql: A query `SELECT … FROM rows`, with `<lookup>_<column>`.
        python: `module:function` from a polars frame of rows to features.
        history: Number of partitions before its own that a row may look back on.
    """

    sql: str | None = None
    python: str | None = Field(None, pattern=PYTHON_REFERENCE)
    history: int = Field(0, ge=0)

    def _find_mistakes(self) -> Mistakes:
        if (self.sql is None) == (self.python is None):
            yield "give either `sql` or `python`"


class TargetSpec(Spec):
    """The label that is predicted: how it is computed, and of what kind it is.

    Args:
        column: Name of the target in the features table.
        expression: SQL that computes the target; by default the column of its name.
        kind: What is predicted: one of two labels, one of many, a number.
        positive_share: Smallest and largest share of positive labels of a partition.
    """

    column: Name
    expression: str | None = None
    kind: Kind
    positive_share: list[float] = Field([0.0, 1.0], min_length=2, max_length=2)

    def _find_mistakes(self) -> Mistakes:
        low, high = self.positive_share
        if not 0 <= low <= high <= 1:
            yield f"positive_share [{low:g}, {high:g}] is not a range within 0 and 1"
