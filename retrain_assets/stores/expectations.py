"""The audit of accepted rows by Great Expectations, from the same contract that judged them.

A second opinion by another engine before anything is published: what the contract let through
by a defect is caught here. Not here: refusing single rows, and what follows from a finding.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

import polars as pl

from retrain_assets.domain.rules import PARTITION, dataset_schema, partition_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation

    from retrain_assets.specs.dataset import DatasetSpec

MAX_AUDITED_ROWS = 50_000
ROWS = "_rows"
_ROW_PARTITION = "_partition_of_row"
_MAX_CHARACTERS = 200
_COMPLETE = {"result_format": "COMPLETE", "return_unexpected_index_query": False}


@dataclass(frozen=True)
class Finding:
    """What one expectation found.

    Args:
        expectation: Its own name, such as `expect_column_values_to_not_be_null`.
        column: What it is about; None where it is about the whole.
        partitions: Those that fail; all of them where the failure cannot be attributed.
        passed: Whether it holds.
        observed: What was found instead; empty where it holds.
    """

    expectation: str
    column: str | None
    partitions: tuple[str, ...]
    passed: bool
    observed: str

    @property
    def is_volume(self) -> bool:
        """Whether it is about the number of rows of a partition."""
        return self.column == ROWS


@dataclass(frozen=True)
class Audit:
    """What Great Expectations said of accepted rows.

    Args:
        findings: One an expectation, in the order of the suite.
        rows_audited: Rows that were looked at: all, or a sample above `MAX_AUDITED_ROWS`.
        rows: Rows that were accepted.
    """

    findings: tuple[Finding, ...]
    rows_audited: int
    rows: int

    def refusals(self) -> dict[str, str]:
        """Why partitions may not be published, by their key."""
        reasons: dict[str, list[str]] = defaultdict(list)
        for finding in self.findings:
            for partition in finding.partitions:
                about = f" of {finding.column}" if finding.column else ""
                reasons[partition].append(f"{finding.expectation}{about}: {finding.observed}")
        return {partition: "; ".join(found) for partition, found in sorted(reasons.items())}


@dataclass(frozen=True)
class _Asked:
    """An expectation to be made: its name, its arguments, and the column it is reported on."""

    name: str
    kwargs: Mapping[str, Any]
    column: str | None = None


def audit(sample: pl.DataFrame, counts: pl.DataFrame, spec: DatasetSpec) -> Audit:
    """Hold accepted rows against the contract once more, and against the spec's expectations.

    Where the schema fails nothing else is asked. Row rules see the sample; the number of rows of a
    partition is counted on all.

    Args:
        sample: Accepted rows as in `dataset_schema`, or a `stratified` sample of them.
        counts: Accepted rows of each partition, in `_rows`.
        spec: The dataset.

    Raises:
        ValueError: An expectation of the spec is unknown, or its arguments do not fit.
    """
    if sample.is_empty():
        return Audit((), 0, 0)
    rows, total = sample, int(counts[ROWS].sum())
    columns = pl.DataFrame(schema=[f"{name}: {kind}" for name, kind in rows.schema.items()])
    schema = _findings(columns, [_schema_expectation(spec)], counts[PARTITION])
    if not all(finding.passed for finding in schema):
        return Audit(schema, 0, total)
    volume = _findings(counts, [_volume_expectation(spec)], counts[PARTITION])
    if spec.partition.column is not None:
        key = partition_of(spec.partition, spec.partition.column)
        rows = rows.with_columns(key.alias(_ROW_PARTITION))
    given = [_Asked(e.type, e.kwargs, e.kwargs.get("column")) for e in spec.expectations]
    by_row = _findings(rows, [*_row_expectations(spec), *given], rows[PARTITION])
    return Audit((*schema, *volume, *by_row), rows.height, total)


def _schema_expectation(spec: DatasetSpec) -> _Asked:
    """Names and types at once, as column names of an empty frame."""
    expected = [f"{name}: {kind}" for name, kind in pl.Schema(dataset_schema(spec)).items()]
    kwargs = {"column_set": expected, "exact_match": True}
    return _Asked("expect_table_columns_to_match_set", kwargs)


def _volume_expectation(spec: DatasetSpec) -> _Asked:
    """On one row a partition, so that its cost does not grow with the rows."""
    kwargs = {"column": ROWS, "min_value": spec.rows.min, "max_value": spec.rows.max}
    return _Asked("expect_column_values_to_be_between", kwargs, ROWS)


def _row_expectations(spec: DatasetSpec) -> Iterator[_Asked]:
    for name, column in spec.columns.items():
        on: dict[str, Any] = {"column": name}
        if column.required or name in spec.key:
            yield _Asked("expect_column_values_to_not_be_null", on, name)
        if column.min is not None or column.max is not None:
            bounds = {"min_value": column.min, "max_value": column.max}
            yield _Asked("expect_column_values_to_be_between", on | bounds, name)
        if column.allowed is not None:
            values = {"value_set": column.allowed}
            yield _Asked("expect_column_values_to_be_in_set", on | values, name)
    key = {"column_list": [PARTITION, *spec.key]}
    yield _Asked("expect_compound_columns_to_be_unique", key, ", ".join(spec.key))
    if spec.partition.column is not None:
        pair = {"column_A": PARTITION, "column_B": _ROW_PARTITION}
        yield _Asked("expect_column_pair_values_to_be_equal", pair, spec.partition.column)


def stratified(rows: pl.DataFrame, share: float) -> pl.DataFrame:
    """The same share of each partition at random, with a fixed seed; all rows from 1 on."""
    if share >= 1:
        return rows
    place = pl.int_range(pl.len()).shuffle(seed=0).over(PARTITION)
    return rows.filter(place < (pl.len().over(PARTITION) * share).ceil())


def _findings(rows: pl.DataFrame, asked: Sequence[_Asked], keys: pl.Series) -> tuple[Finding, ...]:
    """Validate one frame, in one pass whatever the number of expectations.

    Args:
        rows: What is validated.
        asked: The suite.
        keys: The partition of each row, or of all rows that the frame stands for.
    """
    from great_expectations import ExpectationSuite

    # Results come in another order, those that raised first: `meta` tells them apart.
    made = [_expectation(one, meta={"order": order}) for order, one in enumerate(asked)]
    batch = _batches().get_batch({"dataframe": rows.to_pandas()})
    suite = ExpectationSuite(name="audit", expectations=made)
    results = batch.validate(suite, result_format=_COMPLETE).results
    ordered = {result.expectation_config.meta["order"]: result for result in results}
    return tuple(_finding(one, ordered[order], keys) for order, one in enumerate(asked))


def _expectation(asked: _Asked, meta: Mapping[str, Any]) -> Expectation:
    from great_expectations.expectations.registry import (
        get_expectation_impl,
        list_registered_expectation_implementations,
    )

    known = list_registered_expectation_implementations()
    if asked.name not in known:
        near = ", ".join(get_close_matches(asked.name, known)) or "see its gallery for names"
        raise ValueError(f"Great Expectations knows no {asked.name!r}: is it {near}?")
    try:
        return get_expectation_impl(asked.name)(**asked.kwargs, meta=meta)
    except ValueError as error:
        why = " ".join(str(error).split())
        raise ValueError(f"expectation {asked.name} with {dict(asked.kwargs)}: {why}") from error


@cache
def _batches() -> BatchDefinition[Any]:
    """A context in memory, without progress bars or analytics; made once a process."""
    from great_expectations import get_context
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False, metric_calculations=False),
    )
    source = get_context(mode="ephemeral", project_config=config).data_sources.add_pandas("frames")
    return source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")


def _finding(asked: _Asked, result: ExpectationValidationResult, keys: pl.Series) -> Finding:
    problem = _exception(result.exception_info)
    if result.success and problem is None:
        return Finding(asked.name, asked.column, (), passed=True, observed="")
    unexpected = result.result.get("unexpected_index_list") if problem is None else None
    everywhere = keys.unique().sort().to_list()
    failing = _failing(unexpected, keys, asked.kwargs.get("mostly", 1)) or everywhere
    observed = _observed(result.result) if problem is None else f"it raised: {problem}"
    return Finding(
        asked.name, asked.column, tuple(failing), passed=False, observed=observed[:_MAX_CHARACTERS]
    )


def _exception(info: Mapping[str, Any]) -> str | None:
    """The message of an expectation that raised; it comes flat, or one for each metric."""
    for found in (info, *(nested for nested in info.values() if isinstance(nested, dict))):
        if found.get("exception_message") is not None or found.get("raised_exception"):
            return str(found.get("exception_message"))
    return None


def _failing(unexpected: list[int] | None, keys: pl.Series, mostly: float) -> list[str]:
    """The partitions that miss what is expected by themselves; none where no row is blamed."""
    if not unexpected:
        return []
    missed = pl.DataFrame({PARTITION: keys.gather(unexpected)}).group_by(PARTITION).len("missed")
    shares = missed.join(keys.to_frame(PARTITION).group_by(PARTITION).len(), on=PARTITION)
    above = shares.filter(pl.col("missed") > (1 - mostly) * pl.col("len"))
    return above[PARTITION].sort().to_list()


def _observed(result: Mapping[str, Any]) -> str:
    if "unexpected_count" in result:
        examples = ", ".join(str(value) for value in result["partial_unexpected_list"][:3])
        return f"{result['unexpected_count']} of {result['element_count']} rows, such as {examples}"
    return str(result.get("details") or result.get("observed_value"))
