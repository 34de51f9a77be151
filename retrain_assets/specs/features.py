"""The YAML of what a model sees: the lookups joined to a row, its features, its target.

Not here: joining, and computing features.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from retrain_assets.specs.base import Duration, Name, Spec, duration

Kind = Literal["binary", "multiclass", "regression"]
PYTHON_REFERENCE = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


def _let_a_bare_on_pass(schema: dict[str, Any]) -> None:
    """`dg check` holds the YAML against this schema after YAML 1.1 has made `on` a boolean."""
    schema["additionalProperties"] = True
    schema["required"].remove("on")


class LookupSpec(Spec):
    """A dataset whose columns are joined to each row, as they were known when predicting."""

    model_config = ConfigDict(json_schema_extra=_let_a_bare_on_pass)

    on: list[str] = Field(
        min_length=1, description="Columns that must be equal in both datasets; always required."
    )
    as_of: str | None = Field(
        None, description="Time column of both: a row gets the newest earlier row of the lookup."
    )
    lag: Duration = Field(
        "0s", description="How long after its time a row of the lookup becomes known."
    )
    tolerance: Duration | None = Field(
        None, description="Rows of the lookup that are older than this are not used."
    )
    lateness: int = Field(
        1, ge=0, description="Stop waiting for it after this many newer partitions."
    )

    @model_validator(mode="after")
    def _time_options_need_as_of(self) -> LookupSpec:
        if self.as_of is None and (self.tolerance is not None or duration(self.lag)):
            raise ValueError("`lag` and `tolerance` need `as_of`")
        if self.tolerance is not None and duration(self.tolerance) < duration(self.lag):
            raise ValueError(f"tolerance {self.tolerance} is below lag {self.lag}: nothing matches")
        return self


class FeaturesSpec(Spec):
    """Features of one row after the joins, as SQL or as a Python function."""

    sql: str | None = Field(
        None,
        description="`SELECT … FROM rows`; columns of a lookup are `<lookup>_<column>`. A subquery "
        "that joins or groups must also select `_row`.",
    )
    python: str | None = Field(
        None,
        pattern=PYTHON_REFERENCE,
        description="`module:function` from a polars frame of rows to one of features.",
    )
    history: int = Field(
        0,
        ge=0,
        description="How many earlier partitions features may use: table `history` in SQL, second "
        "argument of a function. In the newest `labels.delay` of them, columns `known: later` are "
        "null, because their labels were not final yet.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> FeaturesSpec:
        if (self.sql is None) == (self.python is None):
            raise ValueError("give either `sql` or `python`")
        return self


class TargetSpec(Spec):
    """The label that is predicted."""

    column: Name = Field(description="Name of the target in the features table.")
    expression: str | None = Field(
        None,
        description="SQL over the columns of the dataset, and those of a lookup with `known: "
        "later`, as `<lookup>_<column>`; by default the column itself.",
    )
    kind: Kind = Field(description="The kind of prediction.")
    positive_share: list[float] = Field(
        [0.0, 1.0],
        min_length=2,
        max_length=2,
        description="Bounds on the share of positives in a partition (binary).",
    )

    @model_validator(mode="after")
    def _share_is_a_range(self) -> TargetSpec:
        low, high = self.positive_share
        if not 0 <= low <= high <= 1:
            raise ValueError(f"positive_share [{low:g}, {high:g}] is not a range within 0 and 1")
        return self
