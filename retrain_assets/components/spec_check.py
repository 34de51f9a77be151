"""Names of Python things in the YAML, looked up in source files, without importing anything.

Importing scikit-learn takes seconds, and a user's module may do anything.

What can only be told of a spec beside others, before anything runs: a disagreement, by field.

Not here: what is found
when the thing is imported at last.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

import polars as pl

from retrain_assets.domain.data.expectations import is_asked_by_row_or_partition
from retrain_assets.domain.data.rules import STORED, dataset_schema
from retrain_assets.domain.data.values import find_column_mistakes
from retrain_assets.domain.drift.permutation_test import compute_least_rate
from retrain_assets.domain.features.build import FeatureError, list_features, mistaken_feature
from retrain_assets.orchestration.dagster_internals import is_valid_cron_string
from retrain_assets.orchestration.partitions import partitions_definition
from retrain_assets.specs.base import hint
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.partition import PartitionSpec
from retrain_assets.specs.yaml import Loc
from retrain_assets.steps.modules import find_module


def mistaken_class(path: str) -> str | None:
    """What is wrong with the name of a scikit-learn class, such as `sklearn.svm.SVC`."""
    module, _, name = path.rpartition(".")
    source = _source(module)
    if source is not None and name[0].isupper() and name in (_names(source) or (name,)):
        return None
    public = _classes()
    near = " or ".join(public[found] for found in get_close_matches(name, public, n=3))
    return f"scikit-learn has no {path}" + (f": did you mean {near}?" if near else "")


def mistaken_function(reference: str) -> str | None:
    """What is wrong with `module:function`, as far as it can be told before it is imported."""
    module, _, function = reference.partition(":")
    source = _source(module)
    if source is None:
        return f"no module {module!r}: install it, or put it on PYTHONPATH"
    names = _names(source)
    if names is None or function in names:
        return None
    return f"no {function!r} in {module}{hint(function, names)}"


def _source(module: str) -> Path | None:
    """The file of a module; its packages are not imported on the way."""
    found = find_module(module)
    return Path(found.origin or "") if found else None


@lru_cache(maxsize=64)
def _names(source: Path) -> frozenset[str] | None:
    """The names a module binds; None where its text does not tell."""
    if source.suffix != ".py":
        return None
    try:
        names = frozenset(_bound(ast.parse(source.read_bytes())))
    except SyntaxError:
        return None
    return None if {"*", "__getattr__"} & names else names


def _bound(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child.name
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        else:
            yield from _bound(child)


def _classes() -> dict[str, str]:
    """The public classes of scikit-learn: full names by name."""
    top = _source("sklearn")
    modules = sorted({file.stem for file in top.parent.glob("[a-z]*")}) if top else []
    return {
        name: f"sklearn.{module}.{name}"
        for module in modules
        if (source := _source(f"sklearn.{module}")) is not None
        for name in _names(source) or ()
        if name[0].isupper()
    }


Disagreement = tuple["Loc", str]
_NOT_VALID = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
_COLUMN_ARGUMENTS = ("column", "column_A", "column_B")


def of_dataset(spec: DatasetSpec) -> Iterator[Disagreement]:
    """What is wrong with a dataset."""
    yield from find_column_mistakes(spec)
    for number, expectation in enumerate(spec.expectations):
        columns = {name: expectation.kwargs.get(name) for name in _COLUMN_ARGUMENTS}
        unknown = {k: name for k, name in columns.items() if name and name not in spec.columns}
        for argument, name in unknown.items():
            loc = ("expectations", number, "kwargs", argument)
            yield loc, f"no column {name!r}{hint(name, spec.columns)}"
        if not unknown and not is_asked_by_row_or_partition(expectation, spec):
            why = (
                f"{expectation.type} would depend on how many partitions a run covers: use one "
                "that judges each row by itself, without `mostly`, or mean, median, min, max, sum, "
                "stdev and the unique values of a number with `min_value` or `max_value`"
            )
            yield ("expectations", number, "type"), why


def of_model(
    spec: ModelSpec, dataset: DatasetSpec, lookups: Mapping[str, DatasetSpec]
) -> Iterator[Disagreement]:
    """What is wrong with a model beside its datasets."""
    yield from _of_python(spec)
    yield from _of_partitions(spec, dataset)
    yield from _of_expressions(spec, dataset, lookups)
    if spec.schedule is not None and not is_valid_cron_string(spec.schedule):
        yield ("schedule",), f"{spec.schedule!r} never comes: write it as 0 6 * * 1"
    unjoined = list(_of_lookups(spec, dataset, lookups))
    yield from unjoined
    if not unjoined and spec.features.sql is not None:
        yield from _of_features(spec, dataset, lookups)
    yield from _of_personal(spec, {"": dataset, **{f"{n}_": s for n, s in lookups.items()}})


def _of_python(spec: ModelSpec) -> Iterator[Disagreement]:
    for loc, reference, check in (
        (("estimator", "class"), spec.estimator.class_, mistaken_class),
        (("estimator", "python"), spec.estimator.python, mistaken_function),
        (("features", "python"), spec.features.python, mistaken_function),
    ):
        if reference is not None and (why := check(reference)) is not None:
            yield loc, why


def _of_rates(spec: ModelSpec, partition: PartitionSpec) -> Iterator[Disagreement]:
    """Rates of false alarms that cannot be kept."""
    windows = spec.windows
    if partition.period is None and spec.gate.false_promotions_per_year is not None:
        why = "counts by the year, which partitions by value have not: give `confidence`"
        yield ("gate", "false_promotions_per_year"), why
    reference = spec.triggers.reference
    if partition.period is None and reference is not None and reference.season is not None:
        yield ("triggers", "reference", "season"), "partitions by value have no season"
    length = reference.rolling if reference and reference.rolling else windows.train
    for name in ("data_drift", "target_drift", "prediction_drift"):
        trigger, loc = getattr(spec.triggers, name), ("triggers", name, "false_alarms_per_year")
        if trigger is None or trigger.false_alarms_per_year is None:
            continue
        if name == "prediction_drift":
            yield loc, "is not offered for predictions: give a threshold"
        elif partition.period is None:
            yield loc, "counts by the year, which partitions by value have not: give a threshold"
        else:
            a_year = partition.period.per_year
            least = compute_least_rate(length, windows.current) * a_year
            if not least <= trigger.false_alarms_per_year < a_year:
                why = (
                    f"{trigger.false_alarms_per_year:g} is not told from chance: a reference of "
                    f"{length} and windows.current {windows.current} support {least:.2g} "
                    f"to {a_year:g}"
                )
                yield loc, why


def _of_partitions(spec: ModelSpec, dataset: DatasetSpec) -> Iterator[Disagreement]:
    partition, definition = dataset.partition, partitions_definition(dataset.partition)
    if definition is None:
        why = "has no partitions, which windows are counted in: partition it by a date column"
        yield ("dataset",), f"{dataset.name} {why}"
        return
    yield from _of_rates(spec, partition)
    for number, excluded in enumerate(spec.exclude):
        for end, key in (("first", excluded.first), ("last", excluded.last)):
            if not partition.is_key(key):
                example = partition.start or (partition.values or [""])[0]
                why = f"{key!r} is no partition of {dataset.name}: write it as {example}"
                yield ("exclude", number, end), why
    if partition.end is None and partition.values is None:
        return
    windows, held = spec.windows, definition.get_num_partitions()
    needed = windows.train + windows.holdout + spec.labels.delay
    if needed > held:
        why = f"{dataset.name} never has more than {held} partitions: shorten them"
        yield ("windows",), f"train, holdout and labels.delay need {needed}, but {why}"


def _of_lookups(
    spec: ModelSpec, dataset: DatasetSpec, lookups: Mapping[str, DatasetSpec]
) -> Iterator[Disagreement]:
    for name, lookup in spec.lookups.items():
        named: list[tuple[Loc, str]] = [(("on", n), column) for n, column in enumerate(lookup.on)]
        named += [(("as_of",), lookup.as_of)] if lookup.as_of else []
        for loc, column in named:
            for why in _joined(column, dataset, lookups[name]):
                yield ("lookups", name, *loc), why


def _joined(column: str, dataset: DatasetSpec, lookup: DatasetSpec) -> Iterator[str]:
    """What keeps a column from joining two datasets."""
    sides = (dataset, lookup)
    lacking = [side for side in sides if column not in side.columns]
    for side in lacking:
        yield f"{side.name} has no column {column!r}{hint(column, side.columns)}"
    if lacking:
        return
    here, there = (side.columns[column] for side in sides)
    if STORED[here.type] != STORED[there.type]:
        yield f"{column} is {here.type} in {dataset.name} but {there.type} in {lookup.name}"
    if "later" in (here.known, there.known):
        yield f"{column} is `known: later`, so it cannot be joined on when predicting"


def _of_expressions(
    spec: ModelSpec, dataset: DatasetSpec, lookups: Mapping[str, DatasetSpec]
) -> Iterator[Disagreement]:
    own = dataset_schema(dataset)
    rows = pl.DataFrame(schema=own)
    of_lookups = {
        f"{name}_{column}": stored
        for name in spec.lookups
        if name in lookups
        for column, stored in dataset_schema(lookups[name]).items()
    }
    labelled = pl.DataFrame(schema=of_lookups | own)
    if spec.target.expression is None and spec.target.column not in dataset.columns:
        why = f"{dataset.name} has no such column{hint(spec.target.column, dataset.columns)}"
        yield ("target", "column"), f"{why} Name one, or give `target.expression`."
    for loc, expression in (
        (("target", "expression"), spec.target.expression),
        (("weight",), spec.weight),
        (("blocks",), spec.blocks),
    ):
        if expression is not None:
            try:
                (labelled if loc[0] == "target" else rows).select(pl.sql_expr(expression))
            except _NOT_VALID as error:
                yield loc, _of_sql(error, dataset)


def _of_features(
    spec: ModelSpec, dataset: DatasetSpec, lookups: Mapping[str, DatasetSpec]
) -> Iterator[Disagreement]:
    try:
        names = list_features(spec, dataset, lookups)
    except (FeatureError, *_NOT_VALID) as error:
        yield ("features", "sql"), _of_sql(error, dataset)
        return
    if not names:
        yield ("features", "sql"), "gives no features: write SELECT … FROM rows"
    if mistake := mistaken_feature(names):
        yield ("features", "sql"), mistake
    if spec.target.column in names:
        why = f"the target {spec.target.column} is among its own features: rename one of the two"
        yield ("target", "column"), why
    for number, name in enumerate(spec.gate.slices):
        if name not in names:
            yield ("gate", "slices", number), f"no feature {name!r}{hint(name, names)}"


def _of_personal(spec: ModelSpec, datasets: Mapping[str, DatasetSpec]) -> Iterator[Disagreement]:
    personal = {
        f"{prefix}{name}"
        for prefix, dataset in datasets.items()
        for name, column in dataset.columns.items()
        if column.personal
    }
    for number, name in enumerate(spec.gate.slices):
        if name in personal:
            why = f"{name} is `personal`, and slices are named in reports: slice by another"
            yield ("gate", "slices", number), why


def _of_sql(error: BaseException, dataset: DatasetSpec) -> str:
    """What polars says, in one line."""
    said = str(error.__cause__ or error).partition("\n")[0]
    named = re.search(r"unable to find column \"(.+?)\"", said)
    if named is None:
        return f"is not valid: {said}"
    column = dataset.columns.get(named[1])
    if column is not None and column.known == "later":
        return f"{named[1]} is `known: later`, so no feature can see it"
    return f"no column {named[1]!r}{hint(named[1], dataset.columns)}"
