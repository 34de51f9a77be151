"""What Great Expectations was asked and found, kept as files that need no server and no network.

Its own Data Docs are not used: they load a dozen scripts from elsewhere and show values unescaped,
so that one in the data would run. Not here: asking, and hiding what is personal, which findings do.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

from retrain_assets.reports.page import page, table
from retrain_assets.stores.expectations import suite_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from retrain_assets.specs.dataset import DatasetSpec
    from retrain_assets.stores.expectations import Audit

KEPT_RUNS = 100
_SHOWN_PARTITIONS = 10


def keep(outcome: Audit, spec: DatasetSpec, folder: Path, run_id: str) -> Path:
    """Write what was asked and found: `suite.json`, `results/RUN.json`, `RUN.html`, `index.html`.

    Args:
        outcome: What Great Expectations said.
        spec: The dataset.
        folder: Of this dataset's reports; the results of its newest `KEPT_RUNS` runs stay.
        run_id: Names the files.

    Returns:
        The run's page.
    """
    results = folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    record = _record(outcome, spec, run_id)
    if outcome.findings:
        _write(folder / "suite.json", _json(suite_of(spec).to_json_dict()), run_id)
    _write(results / f"{run_id}.json", _json(record), run_id)
    page = folder / f"{run_id}.html"
    _write(page, _run_page(record), run_id)
    newest = sorted(results.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for old in newest[KEPT_RUNS:]:
        old.unlink(missing_ok=True)
        (folder / f"{old.stem}.html").unlink(missing_ok=True)
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in newest[:KEPT_RUNS]]
    _write(folder / "index.html", _index_page(spec.name, runs), run_id)
    return page


def _record(outcome: Audit, spec: DatasetSpec, run_id: str) -> dict[str, Any]:
    findings = [
        {
            "rule": finding.asked.rule,
            "expectation": finding.expectation,
            "column": finding.column,
            "arguments": finding.asked.arguments,
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


def _run_page(record: dict[str, Any]) -> str:
    """All that was asked, what failed first."""
    found = sorted(record["findings"], key=lambda finding: bool(finding["passed"]))
    rows = [
        (
            _mark(passed=finding["passed"]),
            escape(finding["column"] or ""),
            escape(finding["rule"]),
            escape(finding["expectation"].removeprefix("expect_").replace("_", " ")),
            f"<code>{escape(_brief(finding['arguments']))}</code>",
            escape(_listed(finding["partitions"])),
            escape(finding["observed"]),
        )
        for finding in found
    ]
    said = (
        f"Run {escape(record['run_id'])}, {record['at']}: {record['rows_audited']:,} of "
        f'{record["rows"]:,} accepted rows audited. <a href="index.html">Other runs</a>'
    )
    head = ("", "column", "rule", "expectation", "arguments", "partitions that fail", "found")
    title = f"{record['dataset']}: what Great Expectations found"
    return page(title, f"<p>{said}</p>{table(head, rows)}")


def _index_page(dataset: str, runs: Iterable[dict[str, Any]]) -> str:
    """The runs that are kept, newest first."""
    rows = [
        (
            _mark(passed=run["passed"]),
            f'<a href="{escape(run["run_id"])}.html">{escape(run["run_id"])}</a>',
            escape(run["at"]),
            str(sum(not finding["passed"] for finding in run["findings"])),
            str(len(run["findings"])),
            f"{run['rows_audited']:,} of {run['rows']:,}",
        )
        for run in runs
    ]
    said = '<a href="suite.json">What is asked</a>, in the format of Great Expectations'
    head = ("", "run", "at", "failed", "expectations", "rows audited")
    title = f"{dataset}: audits by Great Expectations"
    return page(title, f"<p>{said}</p>{table(head, rows)}")


def _mark(*, passed: bool) -> str:
    return (
        f'<span class="{"passed" if passed else "failed"}">{"✓" if passed else "✗ failed"}</span>'
    )


def _brief(arguments: dict[str, Any]) -> str:
    """The arguments but for the column, which stands beside them."""
    return ", ".join(f"{key}: {value}" for key, value in arguments.items() if key != "column")[:300]


def _listed(partitions: Iterable[str]) -> str:
    first, more = [*partitions][:_SHOWN_PARTITIONS], len([*partitions]) - _SHOWN_PARTITIONS
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def _json(value: object) -> str:
    return json.dumps(value, indent=1, default=str, ensure_ascii=False)


def _write(path: Path, text: str, run_id: str) -> None:
    """Never half a file, whoever writes or is killed meanwhile."""
    half = path.with_name(f".{path.name}.{run_id}")
    half.write_text(text, encoding="utf-8")
    half.replace(path)
