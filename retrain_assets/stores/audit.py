"""The audit of accepted rows before anything is published.

Where the YAML has `expectations`, Great Expectations judges them, and the rows by the same contract
once more. Where it has none, only the number of rows is judged: a test shows that both engines
refuse the same rows, and importing the second takes longer than to ingest a day. Not here: the list
of expectations, refusing single rows, and what follows from a finding.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cache
from typing import Any

import polars as pl

from retrain_assets.domain.data import expectations
from retrain_assets.domain.data.expectations import Expectation
from retrain_assets.domain.data.row_checks import personal
from retrain_assets.domain.data.rules import MASK, PARTITION
from retrain_assets.domain.json_text import write_json
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.place import Place

MAX_AUDITED_ROWS = 50_000
KEPT_RUNS = 100  # whose results stay in a dataset's folder of reports
_GOLDEN = 0.6180339887498949
_MAX_CHARACTERS, _MAX_EXAMPLE = 200, 40
_COMPLETE = {"result_format": "COMPLETE", "return_unexpected_index_query": False}


@dataclass(frozen=True)
class Finding:
    """The result of one expectation.

    Args:
        item: The expectation.
        partitions: Partitions that fail; all of them where the failure cannot be attributed.
        passed: Whether the expectation holds.
        observed: The values instead, without personal ones; empty where it holds.
    """

    item: Expectation
    partitions: tuple[str, ...]
    passed: bool
    observed: str


@dataclass(frozen=True)
class Audit:
    """The results of Great Expectations on accepted rows.

    Args:
        findings: One result an expectation, in the order of the suite.
        rows_audited: Rows that were judged: all, or a sample above `MAX_AUDITED_ROWS`.
        rows: Rows that were accepted.
    """

    findings: tuple[Finding, ...]
    rows_audited: int
    rows: int

    def refusals(self) -> dict[str, str]:
        """Return why partitions may not be published, by their key."""
        reasons: dict[str, list[str]] = defaultdict(list)
        for finding in self.findings:
            for partition in finding.partitions:
                item = finding.item
                about = f" of {item.column}" if item.column else ""
                reasons[partition].append(f"{item.title}{about}: {finding.observed}")
        return {partition: "; ".join(texts) for partition, texts in sorted(reasons.items())}


def audit(sample: pl.DataFrame, counts: pl.DataFrame, spec: DatasetSpec) -> Audit:
    """Judge accepted rows by the contract once more, and by the expectations of the spec.

    Where the schema fails, nothing else is judged. Expectations on rows judge the sample;
    expectations on a partition (its volume, and aggregates of numbers) judge all its rows.

    Args:
        sample: Accepted rows as in `dataset_schema`, or a sample of them by `draw_sample`.
        counts: The `figures` of all accepted rows.
        spec: The dataset.

    Raises:
        ValueError: An expectation of the spec is unknown, or its arguments do not fit.
    """
    if sample.is_empty():
        return Audit((), 0, 0)
    hidden, total = personal(spec), int(counts[expectations.ROWS].sum())
    columns = pl.DataFrame(schema=[f"{name}: {kind}" for name, kind in sample.schema.items()])
    schema = _findings(columns, expectations.schema_suite(spec), counts[PARTITION], hidden)
    if not all(finding.passed for finding in schema):
        return Audit(schema, 0, total)
    by_partition = _findings(counts, expectations.partition_suite(spec), counts[PARTITION], hidden)
    rows = expectations.with_own_partition(sample, spec)
    by_row = _findings(rows, expectations.accepted_suite(spec), rows[PARTITION], hidden)
    return Audit((*schema, *by_partition, *by_row), rows.height, total)


def judge_volume(counts: pl.DataFrame, spec: DatasetSpec) -> Audit:
    """Judge only the number of rows of each partition, without Great Expectations.

    Args:
        counts: The `figures` of all accepted rows.
        spec: The dataset.
    """
    if counts.is_empty():
        return Audit((), 0, 0)
    item = next(iter(expectations.partition_suite(spec)))
    rows, highest = counts[expectations.ROWS], spec.rows.max
    outside = (rows < spec.rows.min) | (rows > (rows.max() if highest is None else highest))
    numbers, total = rows.filter(outside).to_list(), int(rows.sum())
    examples = ", ".join(map(_example, numbers[:3]))
    observed = f"{len(numbers)} of {counts.height}, such as {examples}" if numbers else ""
    keys = tuple(counts[PARTITION].filter(outside).unique().sort())
    return Audit((Finding(item, keys, passed=not numbers, observed=observed),), 0, total)


def suite_of(spec: DatasetSpec) -> Any:
    """Return all that a run is judged by as a suite; `meta` names rule and column."""
    import great_expectations as gx

    suite = (
        *expectations.schema_suite(spec),
        *expectations.partition_suite(spec),
        *expectations.accepted_suite(spec),
    )
    built = [
        _built(item, meta={"rule": item.rule, "column": item.column, "asked_as": item.title})
        for item in suite
    ]
    return gx.ExpectationSuite(name=spec.name, expectations=built)


def draw_sample(
    rows: pl.DataFrame, share: float, before: Mapping[str, int] | None = None
) -> pl.DataFrame:
    """Return the same share of each partition, and at least its first row; all rows from 1 on.

    Row n of a partition is in the sample if the fractional part of n times the golden ratio is
    below the share. Such rows spread evenly and follow no period of the data.

    Args:
        rows: Accepted rows.
        share: The share.
        before: How many rows of each partition came before these.
    """
    first = pl.col(PARTITION).replace_strict(dict(before or {}), default=0, return_dtype=pl.Int64)
    place = first + pl.int_range(pl.len()).over(PARTITION)
    return rows if share >= 1 else rows.filter(place * _GOLDEN % 1 < share)


def validate(rows: pl.DataFrame, suite: Sequence[Expectation]) -> tuple[Any, ...]:
    """Validate one frame in one pass and return the results in the order of the suite."""
    import great_expectations as gx
    import pandas as pd
    import pyarrow as pa

    # Results come in another order, those that raised first, so `meta` keeps the order.
    built = [_built(item, meta={"order": order}) for order, item in enumerate(suite)]
    # By default pandas reads whole numbers with a null as floats, which changes large numbers.
    frame = rows.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    batch = _batches().get_batch({"dataframe": frame})
    audit_suite = gx.ExpectationSuite(name="audit", expectations=built)
    results = batch.validate(audit_suite, result_format=_COMPLETE).results
    return tuple(sorted(results, key=lambda result: result.expectation_config.meta["order"]))


def _findings(
    rows: pl.DataFrame, suite: Iterable[Expectation], keys: pl.Series, hidden: set[str]
) -> tuple[Finding, ...]:
    """Validate one frame; the cost grows little with expectations and partitions.

    Args:
        rows: The frame.
        suite: The expectations.
        keys: The partition of each row, or of all rows that the frame stands for.
        hidden: Columns whose values may not be shown.
    """
    items = tuple(suite)
    return tuple(
        _finding(item, result, keys, is_hidden=item.mentions(hidden))
        for item, result in zip(items, validate(rows, items), strict=True)
    )


def _built(item: Expectation, meta: Mapping[str, Any]) -> Any:
    """Return an expectation as an object of Great Expectations."""
    from great_expectations.expectations import registry

    names = registry.list_registered_expectation_implementations()
    if item.name not in names:
        near = ", ".join(get_close_matches(item.name, names)) or "see its gallery for names"
        raise ValueError(f"Great Expectations knows no {item.name!r}: is it {near}?")
    try:
        return registry.get_expectation_impl(item.name)(**item.kwargs, meta=meta)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"expectation {item.title} with {dict(item.kwargs)}: {reason}") from error


@cache
def _batches() -> Any:
    """Build a context in memory, without progress bars or analytics, once a process."""
    import great_expectations as gx
    from great_expectations.data_context.types import base

    config = base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(),
        analytics_enabled=False,
        progress_bars=base.ProgressBarsConfig(globally=False, metric_calculations=False),
    )
    source = gx.get_context(mode="ephemeral", project_config=config).data_sources.add_pandas(
        "frames"
    )
    return source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")


def _finding(item: Expectation, result: Any, keys: pl.Series, *, is_hidden: bool) -> Finding:
    problem = _exception(result.exception_info)
    if result.success and problem is None:
        return Finding(item, (), passed=True, observed="")
    unexpected = result.result.get("unexpected_index_list") if problem is None else None
    everywhere = keys.unique().sort().to_list()
    failing = _failing(unexpected, keys, item.kwargs.get("mostly", 1)) or everywhere
    if problem is None:
        observed = _observed(result.result, is_hidden=is_hidden)
    else:
        observed = f"it raised: {MASK if is_hidden else problem}"
    return Finding(item, tuple(failing), passed=False, observed=observed[:_MAX_CHARACTERS])


def _exception(info: Mapping[str, Any]) -> str | None:
    """Return the message of an expectation that raised; there is one, or one for each metric."""
    for error in (info, *(nested for nested in info.values() if isinstance(nested, dict))):
        if error.get("exception_message") is not None or error.get("raised_exception"):
            return str(error.get("exception_message"))
    return None


def _failing(unexpected: list[int] | None, keys: pl.Series, mostly: float) -> list[str]:
    """Return the partitions that fail by themselves; none where no row is blamed."""
    if not unexpected:
        return []
    missed = pl.DataFrame({PARTITION: keys.gather(unexpected)}).group_by(PARTITION).len("missed")
    shares = missed.join(keys.to_frame(PARTITION).group_by(PARTITION).len(), on=PARTITION)
    above = shares.filter(pl.col("missed") > (1 - mostly) * pl.col("len"))
    return above[PARTITION].sort().to_list()


def _observed(result: Mapping[str, Any], *, is_hidden: bool) -> str:
    if "unexpected_count" not in result:
        return MASK if is_hidden else str(result.get("details") or result.get("observed_value"))
    examples = [MASK] if is_hidden else map(_example, result["partial_unexpected_list"][:3])
    counts = f"{result['unexpected_count']} of {result['element_count']}"
    return f"{counts}, such as {', '.join(examples)}"


def _example(value: object) -> str:
    return (repr(value) if isinstance(value, str) else str(value))[:_MAX_EXAMPLE]


def write_results(outcome: Audit, spec: DatasetSpec, folder: Place, run_id: str) -> str:
    """Write `suite.json` and `results/RUN.json`, and remove the results of the oldest runs.

    Args:
        outcome: The audit of the run.
        spec: The dataset.
        folder: Of the dataset's reports; the results of its newest `KEPT_RUNS` runs stay.
        run_id: The name of the results.

    Returns:
        The path or URI of the run's results.
    """
    results, name = folder / "results", f"{run_id}.json"
    if outcome.rows_audited:
        folder.write("suite.json", _as_json(suite_of(spec).to_json_dict()))
    results.write(name, _as_json(_record(outcome, spec, run_id)))
    newest = sorted(results.files(), key=lambda file: file.modified_ns, reverse=True)
    for old in newest[KEPT_RUNS:]:
        results.delete(old.name)
    return f"{results}/{name}"


def _record(outcome: Audit, spec: DatasetSpec, run_id: str) -> dict[str, Any]:
    findings = [
        {
            "rule": finding.item.rule,
            "expectation": finding.item.title,
            "column": finding.item.column,
            "arguments": finding.item.arguments,
            "passed": finding.passed,
            "partitions": finding.partitions,
            "observed": finding.observed,
        }
        for finding in outcome.findings
    ]
    return {
        "dataset": spec.name,
        "run_id": run_id,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "passed": all(finding.passed for finding in outcome.findings),
        "rows": outcome.rows,
        "rows_audited": outcome.rows_audited,
        "findings": findings,
    }


def _as_json(value: object) -> bytes:
    return write_json(value, indent=1, fallback=str).encode()
