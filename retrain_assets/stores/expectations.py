"""The audit of accepted rows by Great Expectations, from the same contract that judged them.

A second opinion by another engine before anything is published: what the contract let through
by a defect is caught here. Not here: what is asked, refusing single rows, and what follows from a
finding.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

import polars as pl

from retrain_assets.domain.rules import PARTITION
from retrain_assets.domain.suite import (
    ROWS,
    Asked,
    accepted_suite,
    partition_suite,
    schema_suite,
    with_own_partition,
)
from retrain_assets.domain.verdicts import MASK, personal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from great_expectations import ExpectationSuite
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation

    from retrain_assets.specs.dataset import DatasetSpec

MAX_AUDITED_ROWS = 50_000
_GOLDEN = 0.6180339887498949
_MAX_CHARACTERS, _MAX_EXAMPLE = 200, 40
_COMPLETE = {"result_format": "COMPLETE", "return_unexpected_index_query": False}


@dataclass(frozen=True)
class Finding:
    """What one expectation found.

    Args:
        asked: The expectation.
        partitions: Those that fail; all of them where the failure cannot be attributed.
        passed: Whether it holds.
        observed: What was found instead, without what is personal; empty where it holds.
    """

    asked: Asked
    partitions: tuple[str, ...]
    passed: bool
    observed: str

    @property
    def expectation(self) -> str:
        """Its own name, such as `expect_column_values_to_not_be_null`."""
        return self.asked.title

    @property
    def column(self) -> str | None:
        """What it is about; None where it is about the whole."""
        return self.asked.column

    @property
    def is_volume(self) -> bool:
        """Whether it is about the number of rows of a partition."""
        return self.asked.rule == "volume"


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


def audit(sample: pl.DataFrame, counts: pl.DataFrame, spec: DatasetSpec) -> Audit:
    """Hold accepted rows against the contract once more, and against the spec's expectations.

    Where the schema fails nothing else is asked. What is asked of rows sees the sample; what is
    asked of a partition (its rows, and aggregates of numbers) is computed from all its rows.

    Args:
        sample: Accepted rows as in `dataset_schema`, or a `stratified` sample of them.
        counts: The `figures` of all accepted rows.
        spec: The dataset.

    Raises:
        ValueError: An expectation of the spec is unknown, or its arguments do not fit.
    """
    if sample.is_empty():
        return Audit((), 0, 0)
    hidden, total = personal(spec), int(counts[ROWS].sum())
    columns = pl.DataFrame(schema=[f"{name}: {kind}" for name, kind in sample.schema.items()])
    schema = _findings(columns, schema_suite(spec), counts[PARTITION], hidden)
    if not all(finding.passed for finding in schema):
        return Audit(schema, 0, total)
    by_partition = _findings(counts, partition_suite(spec), counts[PARTITION], hidden)
    rows = with_own_partition(sample, spec)
    by_row = _findings(rows, accepted_suite(spec), rows[PARTITION], hidden)
    return Audit((*schema, *by_partition, *by_row), rows.height, total)


def suite_of(spec: DatasetSpec) -> ExpectationSuite:
    """All that a run is asked, as Great Expectations has it; `meta` names rule and column."""
    from great_expectations import ExpectationSuite

    suites = (schema_suite(spec), partition_suite(spec), accepted_suite(spec))
    made = [
        _expectation(one, meta={"rule": one.rule, "column": one.column, "asked_as": one.title})
        for suite in suites
        for one in suite
    ]
    return ExpectationSuite(name=spec.name, expectations=made)


def stratified(rows: pl.DataFrame, share: float) -> pl.DataFrame:
    """The same share of each partition, and at least its first row; all rows from 1 on.

    A row is in by its place in its partition alone: of n, that of a fractional part of n times the
    golden ratio below the share. These spread evenly and along with no period of the data.
    """
    place = pl.int_range(pl.len()).over(PARTITION)
    return rows if share >= 1 else rows.filter(place * _GOLDEN % 1 < share)


def validated(
    rows: pl.DataFrame, asked: Sequence[Asked]
) -> tuple[ExpectationValidationResult, ...]:
    """What Great Expectations says of one frame, in one pass, in the order of what is asked."""
    import pandas as pd
    import pyarrow as pa
    from great_expectations import ExpectationSuite

    # Results come in another order, those that raised first: `meta` tells them apart.
    made = [_expectation(one, meta={"order": order}) for order, one in enumerate(asked)]
    # By default a null makes floats of whole numbers, and of large ones others.
    frame = rows.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    batch = _batches().get_batch({"dataframe": frame})
    suite = ExpectationSuite(name="audit", expectations=made)
    results = batch.validate(suite, result_format=_COMPLETE).results
    ordered = {result.expectation_config.meta["order"]: result for result in results}
    return tuple(ordered[order] for order in range(len(asked)))


def _findings(
    rows: pl.DataFrame, suite: Iterable[Asked], keys: pl.Series, hidden: set[str]
) -> tuple[Finding, ...]:
    """Validate one frame; the cost grows neither with expectations nor with partitions by much.

    Args:
        rows: What is validated.
        suite: What is asked.
        keys: The partition of each row, or of all rows that the frame stands for.
        hidden: Columns whose values may not be shown.
    """
    asked = tuple(suite)
    return tuple(
        _finding(one, result, keys, is_hidden=one.mentions(hidden))
        for one, result in zip(asked, validated(rows, asked), strict=True)
    )


def _expectation(asked: Asked, meta: Mapping[str, Any]) -> Expectation:
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
        raise ValueError(f"expectation {asked.title} with {dict(asked.kwargs)}: {why}") from error


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


def _finding(
    asked: Asked, result: ExpectationValidationResult, keys: pl.Series, *, is_hidden: bool
) -> Finding:
    problem = _exception(result.exception_info)
    if result.success and problem is None:
        return Finding(asked, (), passed=True, observed="")
    unexpected = result.result.get("unexpected_index_list") if problem is None else None
    everywhere = keys.unique().sort().to_list()
    failing = _failing(unexpected, keys, asked.kwargs.get("mostly", 1)) or everywhere
    if problem is None:
        observed = _observed(result.result, is_hidden=is_hidden)
    else:
        observed = f"it raised: {MASK if is_hidden else problem}"
    return Finding(asked, tuple(failing), passed=False, observed=observed[:_MAX_CHARACTERS])


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


def _observed(result: Mapping[str, Any], *, is_hidden: bool) -> str:
    if "unexpected_count" not in result:
        return MASK if is_hidden else str(result.get("details") or result.get("observed_value"))
    found = [MASK] if is_hidden else map(_example, result["partial_unexpected_list"][:3])
    counts = f"{result['unexpected_count']} of {result['element_count']}"
    return f"{counts}, such as {', '.join(found)}"


def _example(value: object) -> str:
    return (repr(value) if isinstance(value, str) else str(value))[:_MAX_EXAMPLE]
