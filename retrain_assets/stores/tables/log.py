"""The log of a Delta table: detect damaged commits, and tell which partitions a commit replaced.

Delta itself takes an empty commit, or one torn between two lines, for one that changed less, and
then returns rows that were replaced. Here each commit is compared with the counts in its own
header. Logs in an object store are not checked. Not here: opening a table, and what to do about
damage.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from deltalake import DeltaTable

REPAIR = "docs/storage.md says the repair"
REPLACED = "replaced"  # in a commit: the partitions it replaced, as JSON
MAX_LISTED = 4_000
_COUNTS = {
    "add": ("num_added_files", "numFilesAdded"),
    "remove": ("num_removed_files", "numFilesRemoved"),
}


def replacement_note(partitions: list[str]) -> dict[str, str]:
    """Return the note in a commit of the partitions it replaces; none for very many means all."""
    return {REPLACED: json.dumps(partitions)} if len(partitions) <= MAX_LISTED else {}


def replaced_partitions(commit: dict[str, Any], partitions: list[str]) -> list[str]:
    """Return those of the partitions that a commit replaced; all, if it has no note of them."""
    if REPLACED not in commit:
        return partitions
    return sorted(set(json.loads(commit[REPLACED])).intersection(partitions))


def commits_after(opened: DeltaTable | None, since: int | None) -> list[dict[str, Any]]:
    """Return the headers of the commits after a version, newest first, but for merges of files.

    Args:
        opened: The table; None if there is none yet.
        since: The version; None means from the very first commit.
    """
    first = 0 if since is None else since + 1
    if opened is None or (count := opened.version() - first + 1) <= 0:
        return []
    return [commit for commit in opened.history(count) if commit["operation"] != "OPTIMIZE"]


def torn_commit(uri: str, newest: int) -> str | None:
    """Describe the damage of a commit since the last checkpoint, if there is any."""
    if not _log(uri).is_dir():
        return None
    return next(filter(None, map(_damage, _recent_commits(uri, newest))), None)


def log_damage(uri: str, version: int | None) -> str | None:
    """Tell why a version cannot be opened: it does not exist, or the log is damaged."""
    commits, checkpoints = (
        sorted(_log(uri).glob(f"{'[0-9]' * 20}.{ending}"))
        for ending in ("json", "checkpoint.parquet")
    )
    if not commits:
        return None
    newest = int(commits[-1].stem)
    if version is not None and version > newest:
        return f"it has versions 0 to {newest}, not {version}"
    torn = torn_commit(uri, newest if version is None else version)
    return torn or next(filter(None, map(_checkpoint_damage, reversed(checkpoints))), None)


def short(error: BaseException) -> str:
    """Return the message of an error in one line, without colours and the trace of Rust."""
    text = re.sub(r"\x1b\[\d+m↳?", " ", str(error).partition("\n   0:")[0])
    return " ".join(text.split())[:300]


def _log(uri: str) -> Path:
    return Path(uri) / "_delta_log"


def _recent_commits(uri: str, newest: int) -> Iterator[Path]:
    """Yield commits, newest first, down to the oldest that is in no checkpoint."""
    for number in range(newest, -1, -1):
        commit = _log(uri) / f"{number:020}.json"
        if commit.with_suffix(".checkpoint.parquet").exists():
            return
        yield commit


def _damage(commit: Path) -> str | None:
    try:
        actions = [json.loads(line) for line in commit.read_bytes().splitlines()]
    except FileNotFoundError:
        return f"{commit} is missing; {REPAIR}"
    except ValueError:
        return f"{commit} is torn; {REPAIR}"
    headers = [action["commitInfo"] for action in actions if "commitInfo" in action]
    if not headers:
        return f"{commit} is empty or torn; {REPAIR}"
    counts = headers[0].get("operationMetrics", {})
    for kind, names in _COUNTS.items():
        count = sum(kind in action for action in actions)
        if any(counts.get(name, count) != count for name in names):
            wrong = f"its header does not count the {count} files that it has to {kind}"
            return f"{commit} is torn: {wrong}; {REPAIR}"
    return None


def _checkpoint_damage(checkpoint: Path) -> str | None:
    try:
        pl.read_parquet(checkpoint)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return f"{checkpoint} is torn; {REPAIR}"
    return None
