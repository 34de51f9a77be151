"""Runs that a command executes in its own process, which Dagster's monitoring cannot see.

Such a run names its process; one whose process has died is reported as failed, so that it is asked
for again. Not here: executing runs.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg

PROCESS_TAG = "retrain/process"


def own_process() -> dict[str, str]:
    """The tag of a run that this process executes: host, process id, and when that began."""
    return {PROCESS_TAG: _name(os.getpid())}


def has_died(run: dg.DagsterRun) -> bool:
    """Whether the run was executed by a process of this host that is there no longer."""
    name = run.tags.get(PROCESS_TAG, "")
    host, _, rest = name.partition(" ")
    if host != socket.gethostname():
        return False
    pid = int(rest.split()[0])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _name(pid) != name


def _name(pid: int) -> str:
    """A process by what no later one of the same number has in common with it."""
    status = Path(f"/proc/{pid}/stat")
    # Field 22, counted behind the name, which may hold anything: the tick at which it started.
    began = status.read_text().rpartition(")")[2].split()[19] if status.exists() else "0"
    return f"{socket.gethostname()} {pid} {began}"
