"""Real processes of a test, none of which outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

BIN = Path(sys.executable).parent
# What would lead a command back to the repository's own data.
SETTINGS = ("DAGSTER_HOME", "RETRAIN_STORAGE", "MLFLOW_TRACKING_URI", "SLACK_BOT_TOKEN")
START_SECONDS, STOP_SECONDS = 120, 20
Found = TypeVar("Found")


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return {**kept, "DAGSTER_HOME": str(home), **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(found: Callable[[], Found], seconds: float, what: str) -> Found:
    """What is found once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if now := found():
            return now
        time.sleep(0.2)
    pytest.fail(f"after {seconds:g} seconds there is still no {what}")


@dataclass
class Processes:
    """Processes by name, each the leader of a group, with its output in a file.

    Args:
        home: Their folder and DAGSTER_HOME.
        variables: Set in their environment beside it.
    """

    home: Path
    variables: dict[str, str] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)

    def start(self, name: str, command: str, *arguments: str) -> None:
        with self.log(name).open("ab") as output:
            self.running[name] = subprocess.Popen(
                [BIN / command, *arguments],
                cwd=self.home,
                env=environment(self.home, **self.variables),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def listening(self, name: str, port: int) -> None:
        """Return once the process listens, which servers do when the definitions are loaded."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.running[name].poll() is None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=1),
            ):
                return
            time.sleep(0.2)
        pytest.fail(f"{name} did not start: {self.log(name).read_text(encoding='utf-8')[-4000:]}")

    def kill(self, name: str) -> None:
        """End a process at once, and all of its group."""
        process = self.running.pop(name)
        _end_group(process.pid)
        process.wait(STOP_SECONDS)

    def kill_alone(self, name: str) -> None:
        """End a process at once, and leave the others of its group."""
        process = self.running.pop(name)
        self.left.append(process.pid)
        process.kill()
        process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """Ask all to end, then end what is left of their groups."""
        for process in self.running.values():
            process.terminate()
        for name in list(self.running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.running[name].wait(STOP_SECONDS)
            self.kill(name)
        for group in self.left:
            _end_group(group)


def _end_group(number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)
