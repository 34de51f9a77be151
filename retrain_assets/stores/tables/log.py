"""The log of a Delta table: detect damaged commits, and tell which partitions a commit replaced.

Delta itself takes an empty commit, or one torn between two lines, for one that changed less, and
then returns rows that were replaced. Here each commit is compared with the counts in its own
header; in an object store once in a process. Not here: opening a table, and what to do about
damage.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import polars as pl
from deltalake import DeltaTable

from retrain_assets.stores.place import Place, Stored, as_line, describe_error, find_code

Files = tuple[Stored | None, ...]
LOG = "_delta_log"
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


def find_commit(table: Place, version: int) -> Stored | None:
    """Return what is known of the file of a commit; None if there is none."""
    return table.find(f"{LOG}/{version:020}.json")


def find_files(table: Place, version: int) -> Files:
    """Return what is known of the files of the log that opening a version reads.

    In an object store only of the commit itself, since each question takes a request.
    """
    if not table.is_local:
        return (find_commit(table, version),)
    recent = [find_commit(table, number) for number in _recent_commits(table, version, -1)]
    checkpoint = _checkpoint(version - len(recent))
    return (*recent, (table / LOG).find(checkpoint))


def torn_commit(table: Place, newest: int) -> str | None:
    """Describe the damage of a commit since the last checkpoint, if there is any."""
    memory, key = table.memory, f"{table} is sound up to"
    for number in _recent_commits(table, newest, memory.get(key, -1)):
        if damage := _damage(table / LOG, f"{number:020}.json"):
            return damage
    memory[key] = max(newest, memory.get(key, -1))
    return None


def log_damage(table: Place, version: int | None) -> str | None:
    """Tell why a version cannot be opened: it does not exist, or the log is damaged."""
    names = [item.name for item in (table / LOG).files()]
    commits = [name for name in names if re.fullmatch(r"[0-9]{20}\.json", name)]
    checkpoints = [name for name in names if re.fullmatch(r"[0-9]{20}\.checkpoint\.parquet", name)]
    if not commits:
        return None
    newest = int(commits[-1].partition(".")[0])
    if version is not None and version > newest:
        return f"it has versions 0 to {newest}, not {version}"
    if torn := torn_commit(table, newest if version is None else version):
        return torn
    damages = (_checkpoint_damage(table / LOG, name) for name in reversed(checkpoints))
    return next(filter(None, damages), None)


def short(error: BaseException) -> str:
    """Return the message of an error in one short line, and of a store only its code."""
    return describe_error(error) if find_code(error) else as_line(error)[:300]


def _recent_commits(table: Place, newest: int, sound: int) -> Iterator[int]:
    """Yield numbers of commits, newest first, down to the oldest that is in no checkpoint."""
    for number in range(newest, sound, -1):
        if (table / LOG).find(_checkpoint(number)):
            return
        yield number


def _checkpoint(version: int) -> str:
    return f"{version:020}.checkpoint.parquet"


def _damage(folder: Place, name: str) -> str | None:
    commit = f"{folder}/{name}"
    try:
        actions = [json.loads(line) for line in folder.read(name).splitlines()]
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


def _checkpoint_damage(folder: Place, name: str) -> str | None:
    try:
        pl.read_parquet(folder.read(name))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, FileNotFoundError):
        return f"{folder}/{name} is torn; {REPAIR}"
    return None
