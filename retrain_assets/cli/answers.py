"""The JSON that each command prints with `--json`, as types; docs/answers.json has the schemas.

Fields are never taken away or given another meaning; new ones may come. Not here: making answers.
"""

from typing import Any, get_type_hints

from pydantic import ConfigDict, JsonValue, TypeAdapter, create_model

from retrain_assets.domain.decision.replay import Standing
from retrain_assets.domain.decision.situation import Cause
from retrain_assets.steps.upkeep.vacuum import Vacuumed
from retrain_assets.stores.ledger import LedgerRow

Row = dict[str, JsonValue]
Texts = list[str]
Metrics = dict[str, float | None]
_STRICT = ConfigDict(extra="forbid", strict=True)


def _answer(title: str, /, **fields: Any) -> Any:
    """Return the type of a mapping that has exactly these fields."""
    kinds: dict[str, Any] = {name: (kind, ...) for name, kind in fields.items()}
    return create_model(title, __config__=_STRICT, **kinds)


def _list(kind: Any) -> Any:
    return list[kind]


_DECISION = {
    **{k: v for k, v in get_type_hints(LedgerRow).items() if k not in ("trained_on", "gate")},
    "metrics": Metrics,
}
Decision = _answer("Decision", **_DECISION)
ModelDecision = _answer("ModelDecision", **_DECISION, model=str)
_PRODUCTION = _answer(
    "Production",
    version=int,
    refit_of=int | None,
    since=str,
    data_range=Texts,
    metrics=Metrics,
)
_OVERVIEW: dict[str, Any] = {
    **dict.fromkeys(("model", "staleness", "reason"), str),
    **dict.fromkeys(("stale", "watched"), Texts),
    **dict.fromkeys(("performance", "intervals", "moved", "decisions"), list[Row]),
    **dict.fromkeys(("candidate", "staging"), int | None),
    "production": _PRODUCTION | None,
    "last_decision": Decision | None,
    "wanted": bool,
    "triggers": list[Cause],
    "adaptation": Row | None,
    "refused": dict[str, dict[str, int]],
    "watch": str | None,
    "waiting": _list(_answer("Waiting", text=str, command=str)),
    "next": _answer("Next", partitions=int | None, as_of=str | None, reason=str),
}
_FAILURES = dict.fromkeys(("failed_ticks", "failed_runs"), dict[str, str])
Status = _answer("Status", **_OVERVIEW, **_FAILURES, engine=str)
_COST = _answer(
    "Cost", **dict.fromkeys(("train_rows", "holdout_rows", "fits"), int), last_seconds=float | None
)
_RUN = _answer("Run", **dict.fromkeys(("sensor", "job", "run_id"), str), failed_checks=Texts)
_CHANGE = dict.fromkeys(("name", "kind", "action", "reason", "by"), str)
_RANGE = {"from": str, "to": str}
ANSWERS: dict[str, Any] = {
    **dict.fromkeys(("train", "approve", "adopt", "rollback"), Decision),
    "demo": _answer("Demo", days=int, decisions=_list(ModelDecision), weeks=dict[str, list[Row]]),
    "init": _answer("Init", folder=str, written=Texts, next=Texts),
    "new": _answer(
        "New",
        **dict.fromkeys(("model", "dataset", "file"), str),
        **dict.fromkeys(("landed", "notes", "next"), Texts),
        rows=int,
        guesses=list[dict[str, str]],
    ),
    "status": Status | _list(Status),
    "report": _answer(
        "Report",
        **_OVERVIEW,
        **dict.fromkeys(("events", "course", "drift", "volumes", "datasets"), list[Row]),
        about=Row,
        why=Decision | None,
        partitions=Texts,
        history=_list(Decision),
        report=str,
    ),
    "plan": _answer(
        "Plan",
        **dict.fromkeys(("model", "reason"), str),
        wanted=bool,
        as_of=str | None,
        budget=str | None,
        cost=_COST,
        triggers=list[Cause],
        windows=dict[str, Texts],
    ),
    "history": _list(Decision),
    "reproduce": _answer("Version", model=str, version=int, identical=bool, differences=Texts)
    | _answer("State", model=str, state=str, identical=bool),
    "card": _answer("Card", model=str, version=int, card=str),
    "lineage": dict[str, Row],
    "quarantine": _answer(
        "Quarantine",
        dataset=str,
        partition=str | None,
        reason=str | None,
        refused=int,
        shown=list[Row],
    ),
    "backfill": _answer("Backfill", **_RANGE, name=str, partitions=int, run_id=str)
    | _answer("Ingested", **_RANGE, name=str, partitions=int, run_id=str, refused=int)
    | _answer("ReadAgain", name=str, files=int, run_ids=Texts),
    "tick": _answer(
        "Tick",
        runs=_list(_RUN),
        failed=_list(_answer("Failed", sensor=str, error=str)),
        sensors=dict[str, str],
        decisions=_list(ModelDecision),
        busy=str | None,
    ),
    "land kafka": _answer(
        "Kafka", dataset=str, topic=str, messages=int, files=int, next=dict[str, int]
    ),
    "land sql": _answer("Pulled", dataset=str, rows=int, files=Texts),
    "release": _answer("Release", model=str, version=int, source=str, sha256=str),
    "pause": _answer("Pause", model=str, until=str, reason=str, by=str),
    "resume": _answer("Resume", model=str, until=str | None, reason=str, by=str),
    "rename": _answer("Rename", **_CHANGE, new=str, notes=Texts),
    "retire": _answer("Retire", **_CHANGE, notes=Texts),
    "segments": _answer("Segments", model=str, segments=dict[str, int], file=str),
    "serve": _answer("Message", message=str),
    "score": _answer("Score", **_RANGE, model=str, rows=int, out=str),
    "component": Row,
    "export": _answer("Export", model=str, state=str | None, members=list[int]),
    "replay": _answer(
        "Replay",
        **dict.fromkeys(("model", "metric", "best", "said", "proposal"), str),
        leaders=Texts,
        partitions=int,
        policies=list[Standing],
        decisions=dict[str, list[tuple[str, str]]],
        proposed=Row,
    ),
    "play": _answer("Play", model=str, decisions=_list(ModelDecision), page=str),
    "backup": _answer("Backup", folder=str, files=int, then=str | None),
    "restore": _answer("Restore", folder=str, tables=int),
    "copy": _answer("Copy", **_RANGE, model=str, files=int),
    "vacuum": _answer("Vacuum", dry_run=bool, bytes=int, files=int, tables=list[Vacuumed]),
}


def check(command: str, text: str) -> None:
    """Compare the JSON of a command, such as `land sql`, with its type.

    Raises:
        ValidationError: It does not fit.
    """
    TypeAdapter(ANSWERS[command]).validate_json(text)


def list_schemas() -> dict[str, Any]:
    """Return the JSON schemas: of each command, and what these share."""
    kinds = [(name, "validation", TypeAdapter(kind)) for name, kind in sorted(ANSWERS.items())]
    schemas, shared = TypeAdapter.json_schemas(kinds)  # type: ignore[arg-type]
    return {"commands": {name: schema for (name, _), schema in schemas.items()}, **shared}
