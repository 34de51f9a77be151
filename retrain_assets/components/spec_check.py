"""What is wrong with a spec among the others, as pairs of a field and a reason, before any run.

Expressions are tried on frames without rows. Not here: mistakes that one spec shows by itself, and
those of the Python code that it names (`code_check`).
"""

import re
from collections.abc import Iterator, Mapping

import polars as pl

from retrain_assets.components.code_check import Mistake, find_code_mistakes
from retrain_assets.domain.data import expectations, row_checks, rules, values
from retrain_assets.domain.data.row_wise import explain_sql
from retrain_assets.domain.drift.permutation_test import compute_least_rate
from retrain_assets.domain.features.build import FeatureError, list_features, mistaken_feature
from retrain_assets.domain.features.sql import forgive_rows
from retrain_assets.orchestration import dagster_internals, partitions
from retrain_assets.specs.base import hint, number_of
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec

_INVALID = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
SEGMENT_TYPES = ("category", "text", "int")
_COLUMN_ARGUMENTS = ("column", "column_A", "column_B")


def find_dataset_mistakes(spec: DatasetSpec) -> Iterator[Mistake]:
    """Yield the fields of a dataset that cannot work."""
    yield from values.find_column_mistakes(spec)
    for number, expectation in enumerate(spec.expectations):
        columns = {name: expectation.kwargs.get(name) for name in _COLUMN_ARGUMENTS}
        unknown = {k: name for k, name in columns.items() if name and name not in spec.columns}
        for argument, name in unknown.items():
            loc = ("expectations", number, "kwargs", argument)
            yield loc, f"no column {name!r}{hint(name, spec.columns)}"
        if not unknown and not expectations.is_asked_by_row_or_partition(expectation, spec):
            why = (
                f"{expectation.type} would depend on how many partitions a run covers: use one "
                "that judges each row by itself, without `mostly`, or mean, median, min, max, sum, "
                "stdev and the unique values of a number with `min_value` or `max_value`"
            )
            yield ("expectations", number, "type"), why


def find_model_mistakes(
    spec: ModelSpec, dataset: DatasetSpec, lookups: Mapping[str, DatasetSpec]
) -> Iterator[Mistake]:
    """Yield the fields of a model that cannot work with its datasets."""
    yield from find_code_mistakes(spec)
    yield from _find_window_mistakes(spec)
    yield from _find_segment_mistakes(spec, dataset)
    if spec.schedule is not None and not dagster_internals.is_valid_cron_string(spec.schedule):
        yield ("schedule",), f"{spec.schedule!r} never comes: write it as 0 6 * * 1"
    yield from _find_partition_mistakes(spec, dataset)
    sides = {**{f"{name}_": lookup for name, lookup in lookups.items()}, "": dataset}
    yield from _find_expression_mistakes(spec, dataset, sides)
    yield from (joins := list(_find_lookup_mistakes(spec, dataset, lookups)))
    if not joins and spec.features.sql is not None:
        yield from _find_feature_mistakes(spec, dataset, lookups)
    yield from _find_personal_slices(spec, sides)


def _find_partition_mistakes(spec: ModelSpec, dataset: DatasetSpec) -> Iterator[Mistake]:
    partition, definition = dataset.partition, partitions.partitions_definition(dataset.partition)
    if definition is None:
        why = (
            f"{dataset.name} has no partitions, which windows are counted in: partition it by a "
            "date, by the name of each delivery, or by lines (docs/datasets.md)"
        )
        yield ("dataset",), why
        return
    per_year = partition.period.per_year if partition.period else None
    yield from _find_rate_mistakes(spec.members()[0], per_year)
    for number, excluded in enumerate(spec.exclude):
        for end in ("first", "last"):
            key = getattr(excluded, end)
            if (remedy := partition.explain_misfit(key)) is not None:
                why = f"{key!r} is not a partition of {dataset.name}: {remedy}"
                yield ("exclude", number, end), why
    if partition.end is None and partition.values is None:
        return
    count = definition.get_num_partitions()
    needed = spec.windows.needed + spec.labels.delay
    if needed > count:
        why = f"{dataset.name} never has more than {number_of(count, 'partition')}: shorten them"
        yield ("windows",), f"train, holdout and labels.delay need {needed}, but {why}"


def _find_segment_mistakes(spec: ModelSpec, dataset: DatasetSpec) -> Iterator[Mistake]:
    """Yield columns that cannot name segments; a segment's value is a name that people see."""
    if spec.segment is not None and spec.segment.pooled is not None:
        yield ("segment", "pooled"), "is for the models that `for_each` makes: leave it out"
    for field in ("for_each", "segment"):
        part = getattr(spec, field)
        if part is None:
            continue
        column = dataset.columns.get(part.column)
        if column is None:
            yield (
                (field, "column"),
                f"no column {part.column!r}{hint(part.column, dataset.columns)}",
            )
        elif column.type not in SEGMENT_TYPES or column.timing == "later":
            types = ", ".join(SEGMENT_TYPES)
            why = f"{part.column} must be {types}, and not `known: later`"
            yield (field, "column"), why
        elif part.column in row_checks.personal(dataset):
            yield (field, "column"), f"{part.column} is personal, and values become names of models"


def _find_window_mistakes(spec: ModelSpec) -> Iterator[Mistake]:
    """Yield windows on which the gate can never decide, or no search can have its folds."""
    longest, train = max(spec.windows.also, default=0), spec.windows.least
    if longest >= train:  # which only a budget brings about
        why = f"{longest} is not below train, which is {train} by the budget: shorten it"
        yield ("windows", "also"), f"{why}, or give `train`"
    holdout, blocks = spec.windows.holdout, spec.gate.min_blocks
    if spec.blocks is None and holdout < blocks:
        why = (
            f"{blocks} blocks are asked for and windows.holdout has "
            f"{number_of(holdout, 'partition')}, so every candidate would be held: give "
            f"windows.holdout at least {blocks}, or a smaller number"
        )
        yield ("gate", "min_blocks"), why
    search, shortest = spec.estimator.search, min([spec.windows.least, *spec.windows.also])
    if search is not None and shortest < (needed := search.folds + spec.labels.delay + 1):
        why = (
            f"{search.folds} folds need {needed} training partitions with labels.delay "
            f"{spec.labels.delay}, the shortest window has {shortest}: use fewer folds or a longer "
            "window"
        )
        yield ("estimator", "search", "folds"), why


def _find_rate_mistakes(spec: ModelSpec, per_year: float | None) -> Iterator[Mistake]:
    """Yield the rates that cannot be kept with so many partitions a year; values have none."""
    triggers, current = spec.triggers, spec.windows.current
    reference = triggers.reference
    no_year = "counts by the year, which partitions by value have not: give"
    if per_year is None and spec.budget is not None:
        yield ("budget",), "counts by the month, which partitions by value have not: leave it out"
    if per_year is None and spec.gate.false_promotions_per_year is not None:
        yield ("gate", "false_promotions_per_year"), f"{no_year} `confidence`"
    if per_year is None and reference is not None and reference.season is not None:
        yield ("triggers", "reference", "season"), "partitions by value have no season"
    length = (reference and reference.rolling) or spec.windows.least
    for name in ("data_drift", "target_drift", "prediction_drift"):
        trigger, loc = getattr(triggers, name), ("triggers", name, "false_alarms_per_year")
        rate = trigger and trigger.false_alarms_per_year
        if rate is None:
            continue
        if name == "prediction_drift":
            yield loc, "is not offered for predictions: give a threshold"
        elif per_year is None:
            yield loc, f"{no_year} a threshold"
        elif not (least := compute_least_rate(length, current) * per_year) <= rate < per_year:
            why = (
                f"{rate:g} is not told from chance: a reference of {length} and windows.current "
                f"{current} support {least:.2g} to {per_year:g}"
            )
            yield loc, why


def _find_lookup_mistakes(
    spec: ModelSpec, dataset: DatasetSpec, lookups: Mapping[str, DatasetSpec]
) -> Iterator[Mistake]:
    for name, lookup in spec.lookups.items():
        columns: list[Mistake] = [(("on", n), column) for n, column in enumerate(lookup.on)]
        columns += [(("as_of",), lookup.as_of)] if lookup.as_of else []
        for loc, column in columns:
            for why in _find_join_mistakes(column, dataset, lookups[name]):
                yield ("lookups", name, *loc), why


def _find_join_mistakes(column: str, dataset: DatasetSpec, lookup: DatasetSpec) -> Iterator[str]:
    """Yield what keeps a column from joining two datasets."""
    sides = [side.columns[column] for side in (dataset, lookup) if column in side.columns]
    for side in (dataset, lookup):
        if column not in side.columns:
            yield f"{side.name} has no column {column!r}{hint(column, side.columns)}"
    types = [side.type for side in sides]
    if len({rules.STORED[name] for name in types}) > 1:
        yield f"{column} is {types[0]} in {dataset.name} but {types[1]} in {lookup.name}"
    if len(sides) > 1 and "later" in [side.timing for side in sides]:
        yield f"{column} is `known: later`, so it cannot be joined on when predicting"


def _find_expression_mistakes(
    spec: ModelSpec, dataset: DatasetSpec, sides: Mapping[str, DatasetSpec]
) -> Iterator[Mistake]:
    """Yield the expressions that cannot be computed; `sides` are datasets by prefix of columns."""
    schema = rules.dataset_schema(dataset)
    joined = {
        f"{prefix}{column}": stored
        for prefix, side in sides.items()
        for column, stored in rules.dataset_schema(side).items()
    }
    if spec.target.expression is None and spec.target.column not in dataset.columns:
        why = f"{dataset.name} has no such column{hint(spec.target.column, dataset.columns)}"
        yield ("target", "column"), f"{why} Name one, or give `target.expression`."
    for loc, expression, columns in (
        (("target", "expression"), spec.target.expression, joined),
        (("weight",), spec.weight, schema),
        (("blocks",), spec.blocks, schema),
    ):
        if expression is not None:
            try:
                pl.DataFrame(schema=columns).select(pl.sql_expr(forgive_rows(expression)))
            except _INVALID as error:
                yield loc, _explain_sql(error, dataset)


def _find_feature_mistakes(
    spec: ModelSpec, dataset: DatasetSpec, lookups: Mapping[str, DatasetSpec]
) -> Iterator[Mistake]:
    try:
        names = list_features(spec, dataset, lookups)
    except (FeatureError, *_INVALID) as error:
        yield ("features", "sql"), _explain_sql(error, dataset)
        return
    if not names:
        yield ("features", "sql"), "gives no features: write SELECT … FROM rows"
    if mistake := mistaken_feature(names):
        yield ("features", "sql"), mistake
    if spec.target.column in names:
        why = f"the target {spec.target.column} is among its own features: rename one of the two"
        yield ("target", "column"), why
    for name in spec.descriptions:
        if name not in names:
            yield ("descriptions", name), f"no feature {name!r}{hint(name, names)}"
    for number, name in enumerate(spec.gate.slices):
        if name not in names:
            yield ("gate", "slices", number), f"no feature {name!r}{hint(name, names)}"


def _find_personal_slices(spec: ModelSpec, sides: Mapping[str, DatasetSpec]) -> Iterator[Mistake]:
    personal = {
        f"{prefix}{name}"
        for prefix, side in sides.items()
        for name, column in side.columns.items()
        if column.personal
    }
    for number, name in enumerate(spec.gate.slices):
        if name in personal:
            why = f"{name} is `personal`, and slices are named in reports: slice by another"
            yield ("gate", "slices", number), why


def _explain_sql(error: BaseException, dataset: DatasetSpec) -> str:
    """Return the message of polars in one line, or the column that does not exist."""
    message = explain_sql(error.__cause__ or error)
    match = re.search(r"unable to find column \"(.+?)\"", message)
    if match is None:
        return f"is not valid: {message}"
    column = dataset.columns.get(match[1])
    if column is not None and column.timing == "later":
        return f"{match[1]} is `known: later`, so no feature can see it"
    return f"no column {match[1]!r}{hint(match[1], dataset.columns)}"
