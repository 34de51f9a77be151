"""The report on a model: its overview and all that happened to it, as plain values and as a page.

The events are what a time line shows: decisions, requests, pauses, and partitions that are excluded
or were corrected. Each has a sentence. Not here: how the page looks.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from retrain_assets.domain.data.contract import UNPLACED
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.observations import ESTIMATED, PERFORMANCE
from retrain_assets.domain.metrics.metrics import METRICS
from retrain_assets.reports import timeline
from retrain_assets.reports.monitoring_plots import JUST_BELOW, MULTIPLES, select_watched
from retrain_assets.reports.page import render
from retrain_assets.steps.decision.policy import list_requests
from retrain_assets.steps.inspect import status
from retrain_assets.steps.state import (
    MONITORING_SCHEMA,
    ModelState,
    Snapshot,
    data_digest,
    landing_files,
)
from retrain_assets.stores.ledger import IN_PRODUCTION, History
from retrain_assets.stores.place import Place

MOST_PARTITIONS, MOST_COLUMNS = 366, 20  # of the time line: the newest, the farthest
WINDOW = "window_to"
Event = dict[str, Any]


def report(state: ModelState) -> dict[str, Any]:
    """Return the overview (`status.overview`) with the past of the model.

    Returns:
        Besides the overview: `about` the spec, `why` production is what it is, `partitions` in
        order, `events` and `course` (performance by window) with sentences, `drift` by column,
        `volumes` by partition, `datasets`, and `history`.
    """
    state = Snapshot.of(state)
    history, sources = state.ledger.read(), state.sources()
    volumes = _read_volumes(state, state.dataset.name)
    keys = [row["partition"] for row in volumes][-MOST_PARTITIONS:]
    since = keys[0] if keys else ""
    monitored = state.stored("monitoring", MONITORING_SCHEMA, pl.col(PARTITION) >= since)
    return {
        **status.overview(state),
        "about": _describe_model(state),
        "why": history.production.for_people() if history.production else None,
        "partitions": keys,
        "events": [*_list_events(state, history, sources)],
        "course": _list_performance(monitored),
        "drift": _list_drift(monitored),
        "volumes": volumes[-MOST_PARTITIONS:],
        "datasets": [_sum_up(state, name) for name in (state.dataset.name, *state.lookups)],
        "history": [row.for_people() for row in reversed(history.rows)],
    }


def render_report(value: Mapping[str, Any], models: str = "", cards: str = "") -> str:
    """Return a report as a page of HTML.

    Args:
        value: The report.
        models: The address of the list of all models; empty for no link.
        cards: The address of the card of a version without its number; empty for no links.
    """
    links = {"models": models, "cards": cards}
    written, drawing = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", timeline.draw(value)
    text = {"written": written, "words": status, "actions": timeline.DECISIONS}
    return render("model.html", report=value, drawing=drawing, links=links, **text)


def render_models(overviews: Sequence[Mapping[str, Any]]) -> str:
    """Return the page that lists models, as `status.overview` describes them."""
    return render("models.html", overviews=overviews, words=status)


def write_report(state: ModelState, reports: Place, name: str) -> dict[str, Any]:
    """Write the page of a model under a name, and return the report."""
    value = report(state)
    reports.write(name, render_report(value).encode())
    return value


def _describe_model(state: ModelState) -> dict[str, Any]:
    spec, partition = state.spec, state.dataset.partition
    trigger, metric = spec.triggers.performance, spec.gate.metric
    return {
        "target": spec.target.column,
        "kind": spec.target.kind,
        "owners": list(spec.owners),
        "partition": partition.by,
        "metric": trigger.metric if trigger else None,
        "higher_is_better": METRICS[trigger.metric].greater_is_better if trigger else None,
        "gate": f"{metric}, confidence {spec.gate.confidence:g}",
        "windows": spec.windows.model_dump(exclude={"also"}),
    }


def _list_events(
    state: ModelState, history: History, sources: Mapping[str, str]
) -> Iterator[Event]:
    for row in history.rows:
        action = f"{row.action} version {row.version}"
        by = "" if row.by.startswith("run ") else f" by {row.by}"
        text = f"as of {row.as_of}: {action}{by}: {row.reason}"
        event = _event(row.action, row.as_of, text, version=row.version)
        yield event | {"serves": row.seen_through if row.action in IN_PRODUCTION else None}
    for request in reversed(list_requests(state, MOST_PARTITIONS)):
        kind = "asked" if request["wanted"] else "cause"
        yield _event(kind, request["as_of"], status.describe_request(request))
    yield from _list_pauses(state)
    for bad in state.spec.exclude:
        text = f"excluded: {bad.first} to {bad.last}: {bad.reason}"
        yield _event("excluded", bad.first, text, bad.last)
    yield from _list_corrections(state, history, sources)


def _event(
    kind: str, first: str, text: str, last: str | None = None, version: int | None = None
) -> Event:
    return {"kind": kind, "first": first, "last": last or first, "version": version, "text": text}


def _list_pauses(state: ModelState) -> Iterator[Event]:
    """Yield each pause, from where the data stood to its end: `until`, or where it was lifted."""
    notes = state.ledger.list_pauses()
    for number, note in enumerate(notes):
        if note.get("action") != "pause":
            continue
        until, following = note["until"], notes[number + 1 :][:1]
        text = f"paused until {until} by {note['by']}: {note['reason']}"
        last = min([until, *(end["as_of"] for end in following if end.get("as_of"))])
        for end in following:
            text += f"; {end['action']} by {end['by']}: {end['reason']}"
        first = min(note.get("as_of") or last, last)
        yield _event("pause", first, text, last)


def _list_corrections(
    state: ModelState, history: History, sources: Mapping[str, str]
) -> Iterator[Event]:
    """Yield each partition whose data changed after a version was trained on it."""
    names, trained = {state.dataset.name, *state.lookups}, dict[str, int]()
    for row in history.rows:
        if row.datasets.keys() == names:
            for key, digest in row.trained_on.items():
                if key in sources and digest != data_digest(sources[key]):
                    trained[key] = row.version
    for key, version in sorted(trained.items()):
        text = f"the data of {key} were corrected after version {version} was trained on them"
        yield _event("corrected", key, text, version=version)


def _list_performance(monitored: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the newest row of each window, realised and estimated, in order."""
    watched = pl.col("role").is_in([PERFORMANCE, ESTIMATED]) & pl.col("statistic").is_finite()
    newest = (
        monitored.filter(watched)
        .sort(PARTITION)
        .unique(["role", "model_version", WINDOW], keep="last", maintain_order=True)
    )
    columns = ("role", "measure", "statistic", "low", "high", "threshold", "baseline", "alert")
    rows = newest.sort(WINDOW, PARTITION).select(*columns, "model_version", "window_from", WINDOW)
    return [row | {"text": status.describe_performance(row)} for row in rows.to_dicts()]


def _list_drift(monitored: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the columns farthest from the reference now, each with runs of partitions alike.

    A run has the level of its colour: how many of `MULTIPLES` of the threshold are reached. What
    alerts has reached 1, and nothing else has.
    """
    watched = select_watched(monitored).filter(pl.col("multiple").is_finite())
    multiple = pl.col("multiple")
    decided = pl.when("alert").then(multiple.clip(1)).otherwise(multiple.clip(0, JUST_BELOW))
    levels = pl.sum_horizontal((decided >= step).cast(pl.Int64) for step in MULTIPLES)
    identity = ["role", "column"]
    runs = (
        watched.sort(*identity, PARTITION)
        .with_columns(level=levels)
        .with_columns(run=pl.struct(*identity, "level").rle_id())
        .group_by(*identity, "run", "level", maintain_order=True)
        .agg(
            pl.col(PARTITION).first().alias("first"),
            pl.col(PARTITION).last().alias("last"),
            multiple.last().alias("newest"),
            pl.col("multiple", "measure", "statistic", "threshold", "effect")
            .sort_by(multiple)
            .last(),
        )
    )
    columns, newest = [], dict[tuple[str, ...], float]()
    for (role, column), rows in runs.group_by(*identity, maintain_order=True):
        cells = [
            {name: row[name] for name in ("first", "last", "level", "multiple")}
            | {"text": f"{_name_span(row)}: {status.describe_drift(row)}"}
            for row in rows.iter_rows(named=True)
        ]
        columns.append({"role": role, "column": column, "runs": cells})
        newest[role, column] = rows["newest"][-1]
    columns.sort(key=lambda row: newest[row["role"], row["column"]], reverse=True)
    return columns[:MOST_COLUMNS]


def _name_span(run: Mapping[str, Any]) -> str:
    """Return the partitions of a run; the figures of several are those of the farthest."""
    first, last = run["first"], run["last"]
    return first if first == last else f"{first} to {last}, at the farthest"


def _read_volumes(state: ModelState, dataset: str) -> list[dict[str, Any]]:
    """Return how many rows of each partition were accepted and refused, and refused files."""
    placed = ~pl.col(PARTITION).str.starts_with(UNPLACED)
    files = landing_files(state.tables, dataset, placed)
    counts = files.group_by(partition=PARTITION).agg(
        pl.col("accepted", "quarantined").sum(), pl.col("refusal").drop_nulls().first()
    )
    return counts.sort("partition").to_dicts()


def _sum_up(state: ModelState, dataset: str) -> dict[str, Any]:
    files = landing_files(state.tables, dataset)
    placed = files.filter(~pl.col(PARTITION).str.starts_with(UNPLACED))
    return {
        "dataset": dataset,
        "partitions": placed[PARTITION].n_unique(),
        "newest": placed[PARTITION].max(),
        "accepted": files["accepted"].sum(),
        "quarantined": files["quarantined"].sum(),
        "refused_files": files["refusal"].count(),
        "refusal": next(iter(files.sort(PARTITION)["refusal"].drop_nulls().reverse()), ""),
    }
