"""Compute the features of rows by the same code for training, batch and a single row.

Lookups are joined as they were known when predicting. Then the model's own SQL or function sees
only columns that are known by then, and `history`: rows of the partitions before.
Not here: reading tables, and encoding features for an estimator.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module

import polars as pl

from retrain_assets.domain.data import row_wise
from retrain_assets.domain.data.rules import PARTITION, Type, dataset_schema, row_key
from retrain_assets.domain.data.values import keep_finite, null_infinite
from retrain_assets.domain.features.history import list_later
from retrain_assets.domain.features.sql import QueryError, forgive_rows, run_in_order
from retrain_assets.errors import is_permanent
from retrain_assets.specs.base import duration, number_of
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.features import LookupSpec
from retrain_assets.specs.model import ModelSpec

RefusedRow = dict[str, str]

# Single rows of a partition that may fail; so many, if none succeeds. Else all of it is refused.
MOST_REFUSED, MOST_TRIED = 1_000, 100
LARGEST_EXACT = 2**53  # beyond it, floats leave out whole numbers
KEY, WEIGHT, BLOCK = "_key", "_weight", "_block"
MOST_CHARACTERS = 300  # of the reason why a row is refused
_REPEATED = re.compile(r" for 2 out of 2 values: \[(.+), \1\]")  # a single row is repeated
_ORDER, _AT = "_order", "_at"
_STAMP = pl.Datetime("us", "UTC")  # a date is its midnight, so that a lag of hours counts


class FeatureError(ValueError):
    """Rows cannot be made into features; the message names the model, column and remedy."""


class RowError(FeatureError):
    """The features of a row cannot be computed from its values.

    Args:
        spec: The model.
        reason: What the SQL or the function said.
        where: The row, where it is one of several.
    """

    def __init__(self, spec: ModelSpec, reason: str, where: str = "") -> None:
        super().__init__(f"model {spec.name}: features{where}: {reason}")
        self.reason = reason


def join_lookups(
    rows: pl.DataFrame, lookups: Mapping[str, pl.DataFrame], specs: Mapping[str, LookupSpec]
) -> pl.DataFrame:
    """Add the columns of each lookup as `<lookup>_<column>`; null where nothing matches.

    Args:
        rows: The rows that are predicted, in any order, which is kept.
        lookups: Rows of each lookup, by its name.
        specs: How each is joined.

    Raises:
        FeatureError: A lookup has two rows for one key, so that a join would multiply rows, or that
            are known from the same moment on.
    """
    for name, spec in specs.items():
        values = pl.all().exclude([*spec.on, "^_.*$"]).name.prefix(f"{name}_")
        right = lookups[name].select(*spec.on, values)
        joined = (
            rows.join(right, on=spec.on, how="left", maintain_order="left")
            if spec.as_of is None
            else _join_as_of(rows, right, name, spec)
        )
        if joined.height != rows.height:
            raise FeatureError(_describe_twins(lookups[name], name, spec))
        rows = joined
    return rows


def _describe_twins(lookup: pl.DataFrame, name: str, spec: LookupSpec) -> str:
    """Return why a lookup cannot be joined: an example of rows that share what is joined on."""
    twins = lookup.filter(pl.struct(spec.on).is_duplicated())
    alike = twins.partition_by(spec.on, maintain_order=True)[0]
    values = ", ".join(map(repr, alike.select(spec.on).row(0)))
    partitions = ", ".join(alike[PARTITION].unique().sort()) if PARTITION in alike.columns else ""
    return (
        f"lookup {name}: {', '.join(spec.on)} does not name one row, as {alike.height} rows"
        f"{' of ' * bool(partitions)}{partitions} have {values}: join on its key, or give `as_of`"
    )


def drop_replaced(rows: pl.DataFrame, spec: LookupSpec, dataset: DatasetSpec) -> pl.DataFrame:
    """Return the rows of a lookup without those that a later partition delivers again.

    A value that is corrected on a later day, such as a label, comes as a second row of its key, so
    the row of the newest partition counts. If a row is joined on less than the key of the lookup,
    two such rows are two things, and all of them stay.

    Args:
        rows: Rows of the lookup, with their partition.
        spec: How it is joined.
        dataset: The dataset that is the lookup.
    """
    joined_on, partition = {*spec.on, spec.as_of}, dataset.partition
    in_order = partition.period is not None or partition.start is not None
    if not in_order or partition.column in joined_on or not joined_on.issuperset(dataset.key):
        return rows
    identity = [column for column in rows.columns if column in joined_on]
    return rows.filter(pl.col(PARTITION) == pl.col(PARTITION).max().over(identity))


def _join_as_of(
    rows: pl.DataFrame, right: pl.DataFrame, name: str, spec: LookupSpec
) -> pl.DataFrame:
    time, lag = spec.as_of or "", duration(spec.lag)
    right = right.with_columns((pl.col(f"{name}_{time}").cast(_STAMP) + lag).alias(_AT))
    right = right.drop_nulls([*spec.on, _AT]).sort(_AT)
    if (repeated := right.filter(pl.struct(*spec.on, _AT).is_duplicated())).height:
        example = repeated.select(*spec.on, f"{name}_{time}").row(0)
        raise FeatureError(
            f"lookup {name}: {repeated.height} rows share {', '.join(spec.on)} and {time} with "
            f"another, such as {example}: which is meant cannot be told, so make them its key"
        )
    ordered = (
        rows.with_row_index(_ORDER).with_columns(pl.col(time).cast(_STAMP).alias(_AT)).sort(_AT)
    )
    tolerance = duration(spec.tolerance) - lag if spec.tolerance else None
    joined = ordered.join_asof(
        right, on=_AT, by=spec.on, tolerance=tolerance, check_sortedness=False
    )
    return joined.sort(_ORDER).drop(_ORDER, _AT)


def compute_features(
    rows: pl.DataFrame,
    lookups: Mapping[str, pl.DataFrame],
    spec: ModelSpec,
    dataset: DatasetSpec,
    history: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Compute the features alone, row by row in the order of the rows.

    Args:
        rows: Rows of the dataset; columns that are `known: later` may be missing and are not read.
        lookups: Rows of each lookup.
        spec: The model.
        dataset: The dataset's contract.
        history: Where the model has `features.history`, what `History.before` gives for the
            partition of the rows, which is one then.

    Raises:
        FeatureError: The SQL or function fails, drops rows, or gives a type no model can use.
        RowError: It fails for a row, which the message names.
    """
    parts, place = [], 0
    for part, result in _compute_parts(_join(rows, lookups, spec, dataset), history, spec):
        if isinstance(result, RowError):
            where = f" of row {place} (counted from 0)" if rows.height > 1 else ""
            raise RowError(spec, result.reason, where) from result
        parts.append(result.lazy())
        place += part.height
    return join_parts(parts, spec).collect()


def build_features(
    rows: pl.DataFrame,
    lookups: Mapping[str, pl.DataFrame],
    spec: ModelSpec,
    dataset: DatasetSpec,
    past: Callable[[str], pl.DataFrame] | None = None,
    labels: Mapping[str, pl.DataFrame] | None = None,
    *,
    refused: list[RefusedRow] | None = None,
) -> pl.DataFrame:
    """Compute features, target and identity of labelled rows, as the features table stores them.

    Args:
        rows: Rows of the dataset.
        lookups: Rows of each lookup.
        spec: The model.
        dataset: The dataset's contract.
        past: Where the model has `features.history`, `History.before`: features are made
            partition by partition then.
        labels: Of each lookup that the target is made of, rows with the columns that are
            `known: later`, which no feature sees.
        refused: To which the rows are added whose features cannot be computed, each as
            `partition`, `key` and `reason`. The result is without them in any case.

    Returns:
        `_landing_partition`, `_key` (the dataset's key joined by `|`), the features, the target
        (null where it is not known) and, where the model has them, `_weight` and `_block`; sorted
        by partition and key, so that the same rows give the same model. A feature or target that
        is not finite is null; a weight that is null, negative or not finite is 0, so that the row
        counts for nothing in training and judgement.

    Raises:
        FeatureError: The SQL or function fails without rows too, drops rows, or gives a type no
            model can use; target and features share a name, or features of a row depend on the
            rows that are made with it.
    """
    rows = rows.sort(PARTITION, maintain_order=True)
    features, reasons = _compute_sound(_join(rows, lookups, spec, dataset), past, spec)
    identity = rows.select(PARTITION, row_key(dataset).alias(KEY))
    if refused is not None:
        for place, reason in reasons.items():
            partition, key = identity.row(place)
            refused.append({"partition": partition, "key": key, "reason": reason})
    is_sound = ~pl.int_range(pl.len()).is_in([*reasons])
    rows, identity = rows.filter(is_sound), identity.filter(is_sound)
    if mistake := mistaken_feature(features.columns):
        raise FeatureError(f"model {spec.name}: {mistake}")
    if spec.target.column in features.columns:
        raise FeatureError(
            f"model {spec.name}: the target {spec.target.column} is among its own features"
        )
    labelled = join_lookups(rows, labels or {}, {name: spec.lookups[name] for name in labels or {}})
    frames = [identity, features, _select_target(labelled, spec)]
    if spec.weight is not None:
        weight = keep_finite(pl.sql_expr(forgive_rows(spec.weight)).cast(pl.Float64))
        weights = row_wise.select_possible(rows, weight.alias(WEIGHT))
        frames.append(weights.select(pl.col(WEIGHT).fill_null(0.0).clip(0.0)))
    if spec.blocks is not None:
        name = pl.sql_expr(forgive_rows(spec.blocks)).cast(pl.String).alias(BLOCK)
        names = row_wise.select_possible(rows, name).to_series().fill_null("")
        frames.append(rows.select(pl.concat_str(PARTITION, names, separator="|").alias(BLOCK)))
    return pl.concat(frames, how="horizontal").sort(PARTITION, KEY)


def list_features(
    spec: ModelSpec, dataset: DatasetSpec, lookups: Mapping[str, DatasetSpec]
) -> tuple[str, ...]:
    """Return the names of the features, by computing those of no rows at all.

    A table cannot tell, since it keeps the columns of earlier specs.
    """
    rows = pl.DataFrame(schema=dataset_schema(dataset))
    joined = {
        name: pl.DataFrame(schema=get_lookup_schema(lookup)) for name, lookup in lookups.items()
    }
    history = rows if spec.features.history else None
    return tuple(compute_features(rows, joined, spec, dataset, history).columns)


def mistaken_feature(names: Iterable[str]) -> str | None:
    """Return why a name of a feature cannot be used, or None if all can be."""
    reserved = next((name for name in names if name.startswith("_")), None)
    if reserved is None:
        return None
    return (
        f"the feature {reserved!r} begins with an underscore, as the platform's own columns do: "
        f"give it a name such as {reserved.lstrip('_') or 'amount'!r}"
    )


def get_lookup_schema(dataset: DatasetSpec) -> dict[str, Type]:
    """Return the columns that a dataset shows as a lookup: not those that are `known: later`."""
    return {
        name: stored
        for name, stored in dataset_schema(dataset).items()
        if name == PARTITION or dataset.columns[name].timing == "before"
    }


def list_label_lookups(spec: ModelSpec, lookups: Mapping[str, DatasetSpec]) -> tuple[str, ...]:
    """Return the lookups of whose `known: later` columns the target is made."""
    target = pl.sql_expr(spec.target.expression or "NULL").meta.root_names()
    return tuple(
        name
        for name, lookup in lookups.items()
        if any(f"{name}_{column}" in target for column in list_later(lookup))
    )


def _join(
    rows: pl.DataFrame, lookups: Mapping[str, pl.DataFrame], spec: ModelSpec, dataset: DatasetSpec
) -> pl.DataFrame:
    return join_lookups(rows.drop(list_later(dataset), strict=False), lookups, spec.lookups)


def _split_parts(
    rows: pl.DataFrame, past: Callable[[str], pl.DataFrame] | None
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame | None]]:
    """Yield rows whose features are computed together, and what they look back on."""
    if past is None or rows.is_empty():
        yield rows, None if past is None else past("")
        return
    for part in rows.partition_by(PARTITION, maintain_order=True):
        yield part, past(part[PARTITION][0])


def _compute_sound(
    joined: pl.DataFrame, past: Callable[[str], pl.DataFrame] | None, spec: ModelSpec
) -> tuple[pl.DataFrame, dict[int, str]]:
    """Return features of the rows that have some, and the reason of each other row by its place.

    Raises:
        FeatureError: As `build_features`.
    """
    parts: list[pl.DataFrame] = []
    reasons: dict[int, str] = {}
    place, is_checked = 0, False
    for together, history in _split_parts(joined, past):
        for part, result in _compute_by_partition(together, history, spec):
            if isinstance(result, RowError):
                reasons |= dict.fromkeys(range(place, place + part.height), result.reason)
            else:
                parts.append(result)
                if not is_checked:
                    _refuse_dependent(result, part, history, spec)
                    is_checked = part.height > 1
            place += part.height
    if not parts:
        parts = [_compute(joined.clear(), None if past is None else past(""), spec)]
    return join_parts([part.lazy() for part in parts], spec).collect(), reasons


def _compute_by_partition(
    rows: pl.DataFrame, history: pl.DataFrame | None, spec: ModelSpec
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame | RowError]]:
    """Yield rows with their features, or rows without any and why, at most those of a partition."""
    try:
        yield rows, _compute(rows, history, spec)
    except RowError:
        if rows.is_empty():
            raise
        for part in rows.partition_by(PARTITION, maintain_order=True):
            yield from _locate_failing(part, history, spec)


def _locate_failing(
    rows: pl.DataFrame, history: pl.DataFrame | None, spec: ModelSpec
) -> list[tuple[pl.DataFrame, pl.DataFrame | RowError]]:
    """Return what `_compute_parts` gives for a partition, or all of it as refused."""
    pieces, count = [], 0
    for part, result in _compute_parts(rows, history, spec):
        pieces.append((part, result))
        if isinstance(result, RowError):
            count += 1
            if count > (MOST_REFUSED if count < len(pieces) else MOST_TRIED):
                reason = f"over {count - 1:,} rows of the partition fail, such as: {result.reason}"
                return [(rows, RowError(spec, reason))]
    return pieces


def _compute_parts(
    rows: pl.DataFrame, history: pl.DataFrame | None, spec: ModelSpec
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame | RowError]]:
    """Yield rows with their features, or a single row with the reason why it has none."""
    return row_wise.compute_by_row(rows, lambda part: _compute(part, history, spec), RowError)


def _compute(rows: pl.DataFrame, history: pl.DataFrame | None, spec: ModelSpec) -> pl.DataFrame:
    among = row_wise.repeat_single(rows)
    try:
        # The partition is the platform's own column, so `*` does not make a feature of it.
        features = _apply(among, history, spec).drop(PARTITION, strict=False)
    except QueryError as error:
        raise FeatureError(f"model {spec.name}: features: {error}") from error
    except FeatureError:
        raise
    except row_wise.SQL_ERRORS as error:
        raise RowError(spec, _REPEATED.sub(r": \1", _first_line(error))) from error
    except Exception as error:
        if not is_permanent(error):  # such as of a server that does not answer
            raise
        raise RowError(spec, f"{type(error).__name__}: {_first_line(error)}") from error
    if features.height != among.height:
        raise FeatureError(
            f"model {spec.name}: features has {number_of(features.height, 'row')} for "
            f"{among.height} rows of data: give exactly one row of features for each row"
        )
    stored = {name: get_stored_type(name, dtype, spec) for name, dtype in features.schema.items()}
    return null_infinite(features[: rows.height].cast(stored))  # type: ignore[arg-type]


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:MOST_CHARACTERS]


def join_parts(parts: Sequence[pl.LazyFrame], spec: ModelSpec) -> pl.LazyFrame:
    """Concatenate features of which a function may have given some as another type of number.

    Raises:
        FeatureError: A feature is text in one part and a number in another, or whole numbers of one
            part are too large for the fractions of another.
    """
    schemas = [part.collect_schema() for part in parts]
    for name in schemas[0]:
        types = {schema.get(name, pl.Null()) for schema in schemas} - {pl.Null()}
        mixed, problem = len(types) > 1, ""
        if mixed and pl.String in types:
            problem = "text in some partitions and a number in others"
        elif mixed and pl.Float64 in types:
            kinds = zip(parts, schemas, strict=True)
            whole_numbers = [part for part, schema in kinds if schema.get(name) == pl.Int64]
            too_large = pl.col(name).abs().max() > LARGEST_EXACT
            if any(part.select(too_large).collect().item() for part in whole_numbers):
                problem = f"beyond {LARGEST_EXACT:,} in some partitions and a fraction in others"
        if problem:
            raise FeatureError(
                f"model {spec.name}: feature {name} is {problem}: always give one type"
            )
    return pl.concat(parts, how="vertical_relaxed")


def _refuse_dependent(
    features: pl.DataFrame, rows: pl.DataFrame, history: pl.DataFrame | None, spec: ModelSpec
) -> None:
    """Compute some rows alone, because what depends on other rows would change when serving."""
    for place in {0, rows.height // 2, rows.height - 1} if rows.height > 1 else ():
        together = features[place]
        # A type that follows the values is another one for a single row.
        alone = _compute(rows[place], history, spec).cast(features.schema, strict=False)
        for name in together.columns:
            if not alone[name].equals(together[name], null_equal=True):
                raise FeatureError(
                    f"model {spec.name}: feature {name} of a row is {alone[name][0]!r} alone and "
                    f"{together[name][0]!r} among {rows.height} rows: make it from the row, its "
                    "lookups and `history`, and keep the rows in order"
                )


def _apply(rows: pl.DataFrame, history: pl.DataFrame | None, spec: ModelSpec) -> pl.DataFrame:
    if spec.features.sql is not None:
        others = {} if history is None else {"history": history}
        return run_in_order(spec.features.sql, rows, others)
    module, _, function = (spec.features.python or "").partition(":")
    tables = (rows,) if history is None else (rows, history)
    result = getattr(import_module(module), function)(*tables)
    if not isinstance(result, pl.DataFrame):
        kind = type(result).__name__
        raise FeatureError(
            f"model {spec.name}: {spec.features.python} returned {kind}, not a polars DataFrame"
        )
    return result


def _select_target(rows: pl.DataFrame, spec: ModelSpec) -> pl.DataFrame:
    target = spec.target
    sql = forgive_rows(target.expression or "")
    value = pl.sql_expr(sql) if sql else pl.col(target.column)
    stored = pl.String if target.kind == "multiclass" else pl.Float64
    return null_infinite(row_wise.select_possible(rows, value.alias(target.column))).cast(stored)


def get_stored_type(name: str, dtype: pl.DataType, spec: ModelSpec) -> Type:
    """Return the one storage type of a kind, so that a batch of another width changes nothing.

    Raises:
        FeatureError: It is a type that no model can use.
    """
    if dtype.is_integer():
        return pl.Int64
    if dtype.is_float() or dtype.is_decimal():
        return pl.Float64
    if dtype == pl.Boolean:
        return pl.Boolean
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return pl.String
    if dtype == pl.Null:  # such as of a function without any value, or without rows
        return pl.Null
    raise FeatureError(
        f"model {spec.name}: feature {name} is of type {dtype}: make it a number, text or boolean"
    )
