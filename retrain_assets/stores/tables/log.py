"""What the log of a Delta table tells: whether it is whole, and what its commits replaced.

Delta itself takes an empty commit, or one torn between two lines, for one that changed less, and
then returns rows that were replaced. Here each commit is held against the counts in its own
header. Logs in an object store are not looked at. Not here: opening a table, and what to do about
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


def replacement(partitions: list[str]) -> dict[str, str]:
    """What a commit says of the partitions it replaces; of very many nothing, which means all."""
    return {REPLACED: json.dumps(partitions)} if len(partitions) <= MAX_LISTED else {}


def replaced_in(commit: dict[str, Any], partitions: list[str]) -> list[str]:
    """Which of the partitions a commit replaced; all, where it does not say."""
    if REPLACED not in commit:
        return partitions
    return sorted(set(json.loads(commit[REPLACED])).intersection(partitions))


def commits_after(opened: DeltaTable | None, since: int | None) -> list[dict[str, Any]]:
    """What is recorded of the commits after a version, newest first; merging files is none.

    Args:
        opened: The table; None where there is none yet.
        since: The version; None means from the very first commit.
    """
    first = 0 if since is None else since + 1
    if opened is None or (count := opened.version() - first + 1) <= 0:
        return []
    return [commit for commit in opened.history(count) if commit["operation"] != "OPTIMIZE"]


def torn_commit(uri: str, newest: int) -> str | None:
    """What is wrong with a commit since the last checkpoint, if anything."""
    if not _log(uri).is_dir():
        return None
    return next((wrong for path in _recent(uri, newest) if (wrong := _tear(path))), None)


def log_damage(uri: str, version: int | None) -> str | None:
    """Why a version cannot be opened: it is not there, or a commit or checkpoint is damaged."""
    commits, checkpoints = (
        sorted(_log(uri).glob(f"{'[0-9]' * 20}.{ending}"))
        for ending in ("json", "checkpoint.parquet")
    )
    if not commits:
        return None
    newest = int(commits[-1].stem)
    if version is not None and version > newest:
        return f"it has versions 0 to {newest}, not {version}"
    wrong = torn_commit(uri, newest if version is None else version)
    return wrong or next(filter(None, map(_unreadable, reversed(checkpoints))), None)


def short(error: BaseException) -> str:
    """What an error says in one line, without colours and the trace that Rust appends."""
    said = re.sub(r"\x1b\[\d+m↳?", " ", str(error).partition("\n   0:")[0])
    return " ".join(said.split())[:300]


def _log(uri: str) -> Path:
    return Path(uri) / "_delta_log"


def _recent(uri: str, newest: int) -> Iterator[Path]:
    """Commits, newest first, down to the last that no checkpoint holds."""
    for number in range(newest, -1, -1):
        commit = _log(uri) / f"{number:020}.json"
        if commit.with_suffix(".checkpoint.parquet").exists():
            return
        yield commit


def _tear(commit: Path) -> str | None:
    try:
        actions = [json.loads(line) for line in commit.read_bytes().splitlines()]
    except FileNotFoundError:
        return f"{commit} is missing; {REPAIR}"
    except ValueError:
        return f"{commit} is torn; {REPAIR}"
    headers = [action["commitInfo"] for action in actions if "commitInfo" in action]
    if not headers:
        return f"{commit} is empty or torn; {REPAIR}"
    told = headers[0].get("operationMetrics", {})
    for kind, names in _COUNTS.items():
        found = sum(kind in action for action in actions)
        if any(told.get(name, found) != found for name in names):
            return f"{commit} is torn: it does {found} of what it says to {kind}; {REPAIR}"
    return None


def _unreadable(checkpoint: Path) -> str | None:
    try:
        pl.read_parquet(checkpoint)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        return f"{checkpoint} is torn; {REPAIR}"
    return None
