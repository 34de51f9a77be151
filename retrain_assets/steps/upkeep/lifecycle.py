"""Rename and retire a model or dataset: its YAML, tables, registered model and pages.

Each step can be repeated, and the YAML comes last, so that the same command ends what was killed.
Not here: asking the person, and making sure that nothing else works on the storage root.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.specs.dataset import TAGGED
from retrain_assets.stores.ledger import Action
from retrain_assets.stores.project import PARKED, Part
from retrain_assets.stores.storage import Storage

NAMED = ("pause", "outbox")  # tables whose only partition is the name of their model or dataset
_KEPT = "tables, versions in MLflow, ledger, pages and landing files stay where they are"


@dataclass(frozen=True)
class Change:
    """A renaming or retirement.

    Args:
        part: The model or dataset.
        parts: All of the project.
        reason: Why.
        by: Who wants it.
        segments: With `for_each`, the models of the segments.
    """

    part: Part
    parts: Sequence[Part]
    reason: str
    by: str
    segments: Sequence[str] = ()

    @property
    def users(self) -> list[Part]:
        """Return the models that predict the rows of the dataset."""
        return [part for part in self.parts if part.attributes.get("dataset") == self.part.name]

    @property
    def joined_by(self) -> list[str]:
        """Return the models that look values up in the dataset."""
        name = self.part.name
        return [part.name for part in self.parts if name in (part.attributes.get("lookups") or {})]


def describe_retirement(change: Change) -> list[str]:
    """Return what stops and what stays.

    Raises:
        ValueError: A model still uses the dataset.
    """
    part, users = change.part, [*(user.name for user in change.users), *change.joined_by]
    if part.kind == "dataset" and users:
        raise ValueError(f"{', '.join(users)} uses dataset {part.name}: retire that first")
    stops = {
        "model": "no monitoring, retraining, messages or serving of it",
        "dataset": "its files are no longer read",
    }
    home = part.home.parent.name
    return [
        f"stops: {stops[part.kind]}",
        f"stays: {_KEPT}; its YAML is kept as {home}/{part.name}.retired.yaml",
        f"to take it up again: put that text back into {home}/{part.home.name}",
    ]


def retire(storage: Storage, change: Change) -> None:
    """Take a model or dataset out of the project, and keep all that it has stored."""
    part = change.part
    for name in (part.name, *change.segments) if part.kind == "model" else ():
        _record(storage, name, change, "retire", "retired")
        storage.registry(name).tag_model("retired", f"by {change.by}: {change.reason}")
    text, rest = part.cut()
    note = f"# Retired on {datetime.now(UTC):%Y-%m-%d} by {change.by}: {change.reason}\n"
    place = part.home.with_name(f"{part.name}.retired.yaml")
    replace(part, path=place).write(note + text)
    part.write(rest)


def describe_renaming(change: Change, storage: Storage, new: str) -> list[str]:
    """Return what becomes of the parts of a model or dataset.

    Raises:
        ValueError: It cannot be renamed; the message says why, and what would do.
    """
    part, old = change.part, change.part.name
    storage.local_folder("`retrain rename`")
    tables = storage.place / "delta"
    if any(item.name == new and item.path != part.home for item in change.parts):
        raise ValueError(f"{new} is there already: choose another name")
    if {old, new} <= set(tables.folders()):
        raise ValueError(f"{tables}/{new} holds tables already: choose another name")
    is_begun = part.path != part.home
    if part.kind == "model" and not is_begun and storage.registry(new).is_known():
        raise ValueError(f"MLflow has {new} already: choose another name")
    if old in TAGGED or new in TAGGED:
        names = " or ".join(TAGGED)
        raise ValueError(f"{old} cannot become {new}: nothing can be called {names}")
    if part.kind == "dataset":
        return _describe_dataset(change, new)
    return [
        f"moves: its tables to delta/{new}, its pages, the experiment and the model in MLflow",
        "stays: versions and their files, the ledger, and Dagster's records below the old name",
        f"changes: asset keys, jobs and sensors begin with {new}; predictions are at /models/{new}",
        "see to: servers of predictions, which are to be stopped before and started after",
        f"see to: code of yours that names {old}",
    ]


def _describe_dataset(change: Change, new: str) -> list[str]:
    part, users = change.part, [user.name for user in change.users]
    if change.joined_by:
        raise ValueError(
            f"{', '.join(change.joined_by)} looks values up in {part.name}, whose name is in the "
            "SQL of the features: it keeps its name"
        )
    if part.attributes.get("sql") or part.attributes.get("asset"):
        raise ValueError(
            f"{part.name} lands what it pulls in landing/{part.name}, where each file is known by "
            "its path: it keeps its name"
        )
    lines = [
        f"moves: its tables to delta/{new}",
        "stays: landing files, and Dagster's records below the old name",
        f"changes: asset keys, jobs and sensors begin with {new}",
    ]
    if users:
        lines.append(
            f"changes: `dataset` of {', '.join(users)}, whose features are built again, since the "
            "name is part of their recipe; the cause spec_change then asks for a candidate"
        )
    return lines


def rename(storage: Storage, change: Change, new: str) -> None:
    """Give a model or dataset another name, in all that the platform has stored of it.

    Raises:
        ValueError: The name cannot be replaced in a file; nothing has changed.
    """
    part, old = change.part, change.part.name
    parked = part.home.with_name(f"{part.home.name}{PARKED}")
    texts = {part.home: part.replace_name(part.path.read_text(encoding="utf-8"), "name", old, new)}
    for user in change.users:
        text = texts.get(user.home) or user.path.read_text(encoding="utf-8")
        texts[user.home] = user.replace_name(text, "dataset", old, new)
    if part.path != parked:
        if part.kind == "model":
            _record(storage, old, change, "rename", f"renamed from {old} to {new}")
        part.path.replace(parked)  # from here on, Dagster does not load it
    _move_tables(storage, old, new)
    if part.kind == "model":
        storage.registry(old).rename(new)
    if part.kind == "dataset":
        _copy_tags(storage, f"{old}_version", f"{new}_version")
    for user in change.users:
        if user.home != part.home:
            user.write(texts[user.home])
    part.write(texts[part.home])
    parked.unlink()


def _copy_tags(storage: Storage, old: str, new: str) -> None:
    """Tag all versions made from a dataset, those of segments and retired models too."""
    present = (storage.place / "delta").folders()
    for name in sorted({item.name for item in storage.registry("").versions_of_all()}):
        if name in present:
            storage.registry(name).copy_tags(old, new)


def _move_tables(storage: Storage, old: str, new: str) -> None:
    """Move tables and pages, of which some may have been moved by a command that was killed."""
    root, tables = storage.local_folder("`retrain rename`"), storage.tables
    for name in ("delta/{}", "reports/{}.html", "reports/cards/{}"):
        if (root / name.format(old)).exists():
            (root / name.format(old)).replace(root / name.format(new))
    for table in (f"{new}/{name}" for name in NAMED):
        if tables.version(table) is not None:
            rows = tables.collect(tables.scan(table), table)
            rows = rows.with_columns(pl.lit(new).alias(PARTITION))
            tables.replace(table, rows, [old, new], {"action": "rename"})


def _record(storage: Storage, model: str, change: Change, action: Action, text: str) -> None:
    """Append a row to the ledger, unless it is the newest already or nothing was decided yet."""
    ledger = storage.ledger(model)
    history, reason = ledger.read(), f"{text}: {change.reason}"
    last = history.rows[-1] if history.rows else None
    if last is None or (last.action, last.reason) == (action, reason):
        return
    row = replace(
        history.production or last,
        time=datetime.now(UTC),
        action=action,
        candidate=None,
        previous=None,
        reason=reason,
        because="",
        causes=(),
        by=change.by,
        more=None,
        gate=None,
    )
    storage.registry(model).ledger_head = ledger.append(row, history).head
