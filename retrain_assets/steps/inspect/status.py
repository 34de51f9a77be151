"""Status, plan and history of a model, as plain values.

Not here: printing them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.budget import describe_budget
from retrain_assets.domain.decision.situation import Expectation, Pause, Request, Situation
from retrain_assets.domain.decision.triggers import decide, foresee
from retrain_assets.domain.drift import observations
from retrain_assets.domain.json_text import write_json
from retrain_assets.domain.windows import split
from retrain_assets.specs.base import number_of
from retrain_assets.steps.decision.layer import assess_layer, waits_for_approval
from retrain_assets.steps.decision.policy import list_requests
from retrain_assets.steps.monitoring import watch
from retrain_assets.steps.monitoring.adapt import read_losses, summarize
from retrain_assets.steps.monitoring.in_service import is_in_service
from retrain_assets.steps.state import (
    MONITORING_SCHEMA,
    ModelState,
    Snapshot,
    data_digest,
    landing_files,
)
from retrain_assets.stores.ledger import LedgerError

MOST_PARTITIONS, MOST_DECISIONS, MOST_COLUMNS = 10, 5, 3
MOST_FORESEEN = 1000  # partitions


def status(state: ModelState) -> dict[str, Any]:
    """Return the model now: production, the last decision, stale partitions and triggers.

    `stale` lists partitions that production was trained on and that were corrected since, and
    `refused` the number of files and of other rows that each dataset of the model has refused.
    """
    state = Snapshot.of(state)
    return _describe(state, decide(state.spec, state.situation()))


def overview(state: ModelState) -> dict[str, Any]:
    """Return the status, what waits for a person, and when the next decision is expected."""
    state = Snapshot.of(state)
    situation, comparison = state.situation(), watch.summarize(state)
    request = decide(state.spec, situation)
    value, expectation = _describe(state, request), foresee(state.spec, situation, request)
    return value | {
        "watch": comparison.sentence if comparison and comparison.partitions else None,
        "waiting": [*_list_waiting(state, value, situation.pause, comparison)],
        "next": _name_partition(state, situation, expectation),
    }


def _describe(state: ModelState, wish: Request) -> dict[str, Any]:
    history = state.ledger.read()
    now = history.production
    last = history.rows[-1] if history.rows else None
    stale = list_stale(state)
    return {
        "model": state.spec.name,
        "production": now
        and {
            "version": now.version,
            "refit_of": now.candidate if now.candidate != now.version else None,
            "since": now.time.isoformat(),
            "data_range": list(now.data_range),
            "metrics": now.metrics,
        },
        "candidate": last.candidate if last else None,
        "staging": history.staged.version if history.staged else None,
        "last_decision": last.for_people() if last else None,
        "stale": stale,
        "staleness": describe_staleness(state, stale),
        "wanted": wish.retrain,
        "reason": wish.reason,
        "triggers": [asdict(cause) for cause in wish.causes],
        "performance": performance(state),
        "intervals": list_coverage(state, history.production_version),
        "watched": list(state.spec.triggers.signals),
        "moved": list_moved_columns(state),
        "adaptation": summarize_layer(state),
        "decisions": list_requests(state, MOST_DECISIONS),
        "refused": count_refused(state),
    }


def count_refused(state: ModelState) -> dict[str, dict[str, int]]:
    """Return the refused files, and refused rows of other files, of each dataset that has some."""
    counts = {}
    for name in (state.dataset.name, *state.lookups):
        records = landing_files(state.tables, name)
        is_file = pl.col("refusal").is_not_null()
        rows = int(records.filter(~is_file)["quarantined"].sum())
        files = records.filter(is_file)["file"].n_unique()
        if files or rows:
            counts[name] = {"files": files, "rows": rows}
    return counts


def _list_waiting(
    state: ModelState,
    value: Mapping[str, Any],
    pause: Pause | None,
    comparison: watch.WatchSummary | None,
) -> Iterator[dict[str, str]]:
    """Yield what a person can do something about, each with the command that does it, if any."""
    name, why = state.spec.name, "--reason WHY"
    if value["staging"]:
        command = f"retrain approve {name} {value['staging']} --by NAME {why}"
        yield {"text": f"version {value['staging']} waits for approval", "command": command}
    if (layer := value["adaptation"]) and layer["waits"]:
        text = f"the adaptive layer waits for approval: {layer['standing']}"
        yield {"text": text, "command": f"retrain approve {name} --layer --by NAME {why}"}
    if comparison and comparison.is_worse:
        yield {"text": comparison.sentence, "command": f"retrain rollback {name} {why}"}
    if pause:
        text = f"retraining is paused until {pause.until} by {pause.by}: {pause.reason}"
        yield {"text": text, "command": f"retrain resume {name} {why}"}
    if value["stale"]:
        yield {"text": value["staleness"], "command": ""}
    for dataset, count in value["refused"].items():
        files, rows = number_of(count["files"], "file"), number_of(count["rows"], "row")
        sentence = f"{files} and {rows} of other files" if count["files"] and count["rows"] else ""
        text = f"{dataset} refused {sentence or (files if count['files'] else rows)}"
        yield {"text": text, "command": f"retrain quarantine {dataset}"}


def _name_partition(
    state: ModelState, situation: Situation, expectation: Expectation
) -> dict[str, Any]:
    """Return when a decision is expected, with the partition that its data would end with."""
    count, reason = expectation.partitions, expectation.reason
    period, pause = state.dataset.partition.period, situation.pause
    as_of = situation.mature[-1] if situation.mature else None
    if count and (delay := state.spec.labels.delay):
        reason += f"; labels are final {number_of(delay, 'partition')} later"
    value = {"partitions": count, "as_of": None, "reason": reason}
    if not as_of or not period or count is None:
        return value
    until, passed = pause.until if pause else "", 0
    while (passed < count or as_of < until) and passed < MOST_FORESEEN:
        as_of, passed = period.following(as_of), passed + 1
    reason = "when the pause ends" if passed > count else reason
    return value | {"partitions": passed, "as_of": as_of, "reason": reason}


def answer(value: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return in words how production does, what moved, what waits and what is next.

    Args:
        value: As `overview` returns it.

    Returns:
        Sentences by question.
    """
    layer = value["adaptation"]
    brings = [describe_layer(layer)] if layer and value["production"] else []
    now = [f"now: {value['reason']}"] if value["next"]["partitions"] != 0 else []
    missed = [describe_coverage(row) for row in value["intervals"] if row["alert"]]
    return {
        "how it does": [_describe_newest(value), *missed, *brings],
        "what moved": _describe_moved(value),
        "waiting": [
            f"{row['text']}: see `{row['command']}`" if row["command"] else row["text"]
            for row in value["waiting"]
        ],
        "next": [describe_next(value["next"]), *now],
    }


def _describe_newest(value: Mapping[str, Any]) -> str:
    if not value["performance"]:
        return "no performance has been measured yet"
    row, now = value["performance"][0], value["production"]
    is_past = now and row["model_version"] != now["version"]
    note = f"too few partitions since version {now['version']}; " if is_past else ""
    return f"{note}{describe_performance(row)}"


def _describe_moved(value: Mapping[str, Any]) -> list[str]:
    rows, signals = value["moved"], [name for name in value["watched"] if name.endswith("_drift")]
    if not rows and not signals:
        return ["no drift is watched, since `triggers` of the YAML names none"]
    if not rows:
        return [f"{', '.join(signals)} {'is' if len(signals) == 1 else 'are'} not measured yet"]
    alerts = [row for row in rows if row["alert"]]
    if not alerts:
        return [f"nothing beyond its threshold; farthest is {describe_drift(rows[0])}"]
    return [*map(describe_drift, alerts)]


def describe_next(value: Mapping[str, Any]) -> str:
    """Return in words when the next decision is expected."""
    count = value["partitions"]
    if count == 0:
        return f"a retraining starts at the next tick of the sensor: {value['reason']}"
    if count is None:
        return str(value["reason"])
    as_of = f" (as of {value['as_of']})" if value["as_of"] else ""
    count_more = number_of(count, "more partition")
    return f"a decision is expected after {count_more}{as_of}, {value['reason']}"


def describe_production(value: Mapping[str, Any]) -> str:
    """Return in words what is in production."""
    now = value["production"]
    if not now:
        return "nothing in production"
    since, trained = now["since"][:16].replace("T", " "), " to ".join(now["data_range"])
    refit = now.get("refit_of")
    note = f", the refit of version {refit}, which the gate compared" if refit else ""
    return f"version {now['version']} in production since {since} UTC, trained on {trained}{note}"


def describe_performance(row: Mapping[str, Any]) -> str:
    """Return in words how a version did, or is estimated to do, in a window."""
    interval = "" if row["low"] is None else f" ({row['low']:.4g} to {row['high']:.4g})"
    estimated = "estimated " if row["role"] == observations.ESTIMATED else ""
    return (
        f"{estimated}performance of version {row['model_version']}: {row['measure']} "
        f"{row['statistic']:.4g}{interval} in {row['window_from']} to {row['window_to']}, "
        f"{row['baseline']:.4g} at its promotion, limit {row['threshold']:.4g}"
    )


def describe_coverage(row: Mapping[str, Any]) -> str:
    """Return in words how many labels the intervals of a version contain in a window."""
    return (
        f"the intervals of version {row['model_version']} contain {row['statistic']:.1%} of the "
        f"labels of {row['window_from']} to {row['window_to']}, and are meant to contain "
        f"{row['threshold']:.1%}"
    )


def describe_drift(row: Mapping[str, Any]) -> str:
    """Return in words how far a column lies from the reference."""
    return (
        f"{row['role']} {row['column']}: {row['measure']} {row['statistic']:.3g}, "
        f"threshold {row['threshold']:.3g}: {row['effect']}"
    )


def describe_request(row: Mapping[str, Any]) -> str:
    """Return in words what was asked for as of a partition, and why."""
    answer = "asked for a candidate" if row["wanted"] else "did not ask"
    correction = " (data corrected since)" if row["outdated"] else ""
    return f"as of {row['as_of']}{correction} {answer}: {row['reason']}"


def describe_layer(value: Mapping[str, Any]) -> str:
    """Return in words what the adaptive layer brings, or would bring, and whether it serves."""
    where = f"in service since {value['since']}" if value["since"] else f"in {value['adapt']}"
    if value["adapt"] == "auto" and not value["since"]:
        where = "not in service"
    sentences = f"adaptive layer {where}: {value['said']}", value["standing"]
    return "; ".join(filter(None, sentences))


def summarize_layer(state: ModelState) -> dict[str, Any] | None:
    """Return what the adaptive layer brings or would bring; None where it is not learned."""
    if state.spec.layer.mode == "off":
        return None
    rows, history, mode = read_losses(state), state.ledger.read(), state.spec.layer.mode
    summary, standing = summarize(rows), assess_layer(state, rows, history)
    serves = history.layer if is_in_service(state, history) else None
    return {
        "adapt": mode,
        "since": serves and serves.seen_through,
        "waits": waits_for_approval(state, history, standing),
        "standing": standing.sentence if mode == "auto" else "",
        **asdict(summary),
        "said": summary.sentence,
    }


def read_newest(state: ModelState, *roles: str) -> pl.DataFrame:
    """Return the rows of monitoring that have a threshold, of the newest partition."""
    watched = pl.col("role").is_in(roles) & pl.col("threshold").is_not_null()
    rows = state.stored("monitoring", MONITORING_SCHEMA, watched)
    return rows.filter(pl.col(PARTITION) == pl.col(PARTITION).max())


def performance(state: ModelState) -> list[dict[str, Any]]:
    """Return realised and estimated performance of the newest windows that have one."""
    columns = ("role", "measure", "statistic", "low", "high", "threshold", "baseline", "alert")
    rows = read_newest(state, observations.PERFORMANCE, observations.ESTIMATED)
    return rows.select(*columns, "model_version", "window_from", "window_to").to_dicts()


def list_coverage(state: ModelState, version: int | None) -> list[dict[str, Any]]:
    """Return how many labels the intervals of a version contain, in its newest window."""
    is_version = pl.col("model_version").eq_missing(pl.lit(version))
    rows = read_newest(state, observations.INTERVALS).filter(is_version)
    columns = ("measure", "statistic", "low", "high", "threshold", "alert", "model_version")
    return rows.select(*columns, "window_from", "window_to").to_dicts()


def list_moved_columns(state: ModelState) -> list[dict[str, Any]]:
    """Return the columns that lie farthest from the reference, relative to their threshold."""
    roles = observations.FEATURE, observations.PREDICTION, observations.TARGET
    is_measured = (pl.col("measure") != observations.P_VALUE) & pl.col("statistic").is_not_null()
    rows = read_newest(state, *roles).filter(is_measured)
    ranked = rows.sort(pl.col("statistic") / pl.col("threshold"), descending=True)
    columns = ("column", "role", "measure", "statistic", "threshold", "alert", "effect")
    farthest = ranked.unique("column", keep="first", maintain_order=True).head(MOST_COLUMNS)
    return farthest.select(columns).to_dicts()


def plan(state: ModelState, last_seconds: float | None) -> dict[str, Any]:
    """Return what would happen now: whether a cause fires, on which windows, at what cost.

    Args:
        state: The model.
        last_seconds: How long the newest retraining took, if there was one.
    """
    wish, mature, spec = decide(state.spec, state.situation()), state.mature(), state.spec
    enough = len(mature) >= spec.windows.needed
    windows = asdict(split(mature, spec.windows)) if enough else {}
    rows = state.count_rows()
    return {
        "model": spec.name,
        "wanted": wish.retrain,
        "reason": wish.reason,
        "as_of": wish.as_of,
        "triggers": [asdict(cause) for cause in wish.causes],
        "windows": {name: [keys[0], keys[-1]] for name, keys in windows.items() if name != "as_of"},
        "budget": describe_budget(spec),
        "cost": {
            "train_rows": sum(rows.get(key, 0) for key in windows.get("train", ())),
            "holdout_rows": sum(rows.get(key, 0) for key in windows.get("holdout", ())),
            "fits": int(spec.refit) if wish.held_version else spec.fits_per_decision,
            "last_seconds": last_seconds,
        },
    }


def list_stale(state: ModelState) -> list[str]:
    """Return the partitions of production's training range whose data were corrected since."""
    now, sources = state.ledger.read().production, state.sources()
    if now is None or not now.trained_on:
        return []
    trained = state.trained_on(tuple(sources), now.data_range)
    return [key for key in trained if now.trained_on.get(key) != data_digest(sources[key])]


def describe_staleness(state: ModelState, corrected: list[str]) -> str:
    """Return what production was trained on, and which of it was corrected since, as text."""
    now = state.ledger.read().production
    if now is None:
        return "nothing is in production"
    datasets = ", ".join(f"{name} v{version}" for name, version in now.datasets.items())
    origin = f"version {now.version} was trained on {datasets or 'data of no known version'}"
    if not corrected:
        return f"{origin}; none of its partitions was corrected since"
    listing = ", ".join(corrected[:MOST_PARTITIONS] + ["…"] * (len(corrected) > MOST_PARTITIONS))
    return f"{origin}; {len(corrected)} of its partitions were corrected since: {listing}"


def verify(state: ModelState) -> str:
    """Compare the ledger with itself and with the head that the registry keeps.

    Returns:
        A sentence, where all fits.

    Raises:
        LedgerError: A row was changed or is missing; the message names the first.
    """
    history, head, name = state.ledger.read(), state.registry.ledger_head, state.spec.name
    missing = f"row {head.partition(' ')[0]} was changed, or is missing with those after it"
    wrong = history.misfit or (missing if head and not history.has(head) else "")
    if wrong:
        raise LedgerError(
            f"model {name}: the ledger does not fit: {wrong}; the registry keeps head "
            f"{head or '(none)'}, the ledger's is {history.head or '(none)'}: look at the history "
            f"of table {state.ledger.table} and restore the version before the change"
        )
    if not head and history.rows:
        raise LedgerError(
            f"model {name}: MLflow's registry does not name the newest row of the ledger, so "
            "that rows missing at its end cannot be noticed: "
            "is MLFLOW_TRACKING_URI that of these tables?"
        )
    rows = number_of(len(history.rows), "row")
    return f"the chain of {rows} fits; the registry keeps head {head or '(none)'}"


def history(state: ModelState) -> list[dict[str, object]]:
    """Return every decision, oldest first."""
    return [row.for_people() for row in state.ledger.read().rows]


def as_table(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Return decisions as a table of text, nested values as JSON."""
    flat = [
        {
            name: write_json(value) if isinstance(value, list | dict) else value
            for name, value in row.items()
        }
        for row in rows
    ]
    return pl.DataFrame(flat, infer_schema_length=None)
