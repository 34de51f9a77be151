"""Run a module of ours in a new process, since the file that it is to read may be damaged.

A parent of such processes, which has only imported what they need, forks one for each file. So a
check costs what it computes, and not 3 CPU seconds of imports; a process that has read a file ends
with it. The parent ends with this process, or when nothing was asked of it for a while. Not here:
what is run.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any

from retrain_assets.stores.registry.model_file import prepare_threads

IMPORTED = ("skops.io", "retrain_assets.stores.registry.native_file")
IDLE_SECONDS, START_SECONDS = 120.0, 60.0


@dataclass(frozen=True)
class Answer:
    """The end of a process: its exit and its output.

    Args:
        code: Its exit code; negative for the signal that ended it, None if it took too long.
        output: What it has written.
    """

    code: int | None
    output: str


class Parent:
    """The process that forks the others; it starts when it is first needed."""

    def __init__(self) -> None:
        self._lock, self._owner = Lock(), 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, if it does not run, so that it imports while other work is done."""
        with self._lock:
            self._start()

    def run(self, module: str, arguments: Sequence[str], seconds: float) -> Answer:
        """Run `main(arguments)` of a module in a new process.

        Args:
            module: Its full name.
            arguments: Of its `main`, which returns the exit code.
            seconds: The longest time.
        """
        # A user's own modules are found there as here, however this process found them.
        places = [str(Path(place).absolute()) for place in sys.path if place]
        request = json.dumps([module, list(arguments), seconds, places]).encode() + b"\n"
        with self._lock:
            for _ in range(2):  # the parent may have ended since it was last used
                process = self._start()
                with suppress(OSError, ValueError):
                    requests, answers = process.stdin, process.stdout
                    os.write(requests.fileno(), request)  # type: ignore[union-attr]
                    waiting = select.poll()  # unlike select, for any number of open files
                    waiting.register(answers, select.POLLIN)  # type: ignore[arg-type]
                    if waiting.poll(1000 * (seconds + START_SECONDS)):
                        return Answer(*json.loads(answers.readline()))  # type: ignore[union-attr]
                process.kill()
                process.wait()
        return Answer(1, "the process that reads model files ended twice: see its messages above")

    def _start(self) -> subprocess.Popen[bytes]:
        process = self._process
        if process is None or self._owner != os.getpid() or process.poll() is not None:
            prepare_threads()
            process = subprocess.Popen(  # noqa: S603 our own interpreter and module, no shell
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # an interrupt of the terminal is for its owner
            )
            self._process, self._owner = process, os.getpid()
        return process


PARENT = Parent()


def serve() -> None:
    """Import what is needed, then fork a process for each request until none comes."""
    for name in IMPORTED:
        import_module(name)
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    while select.select([requests], [], [], IDLE_SECONDS)[0] and (line := requests.readline()):
        answer = _fork(*json.loads(line))
        os.write(1, json.dumps([answer.code, answer.output]).encode() + b"\n")


def _fork(module: str, arguments: list[str], seconds: float, places: list[str]) -> Answer:
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(sender, 1)
        os.dup2(sender, 2)
        sys.path[:] = places
        _run(module, arguments)
    os.close(sender)
    output, ended = b"", monotonic() + seconds
    while select.select([receiver], [], [], max(0.0, ended - monotonic()))[0]:
        if not (part := os.read(receiver, 65536)):
            break
        output += part
    else:
        os.kill(child, signal.SIGKILL)
    os.close(receiver)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    late = status == -signal.SIGKILL and monotonic() >= ended
    return Answer(None if late else status, output.decode(errors="replace"))


def _run(module: str, arguments: list[str]) -> Any:
    """Run a module and end this process with its code, whatever it raises."""
    code = 1
    try:
        code = import_module(module).main(arguments)
    except BaseException as error:  # noqa: BLE001 the process ends here
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
