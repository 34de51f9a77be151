"""A lock in an object store: one process of all machines holds it, until it ends or is dead.

Whoever takes it writes an object of the next number, which a store lets only one do, and writes it
again while it works. One that was not written for `SECONDS` counts as dead; so the clocks of the
machines and of the store must agree within a minute. Not here: locks of one machine.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from time import time_ns
from uuid import uuid4

from retrain_assets.stores.place import Place, PlaceError

SECONDS = 120


class HeldError(RuntimeError):
    """Another process holds the lock; the message names its machine."""


@contextmanager
def hold(folder: Place) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        HeldError: Another process holds it.
        PlaceError: The store does not answer.
    """
    holder = f"{socket.gethostname()}, process {os.getpid()}, {uuid4().hex}".encode()
    name, ended = _take(folder, holder), Event()
    renewal = Thread(target=_renew, args=(folder, name, holder, ended), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        with suppress(PlaceError):  # it then counts as dead some time later
            folder.write(name, b"")


def _take(folder: Place, holder: bytes) -> str:
    """Return the name of the object that says who holds the lock; an empty one is free."""
    files = folder.files()
    number = int(files[-1].name) + 1 if files else 0
    if files and files[-1].size_bytes and time_ns() - files[-1].modified_ns < SECONDS * 10**9:
        raise _refusal(folder, files[-1].name)
    name = f"{number:020}"
    # The answer to a write that succeeded may be lost, and its repetition then fails.
    if not folder.write_new(name, holder) and _read(folder, name) != holder:
        raise _refusal(folder, name)
    # Somebody who was slow may write a number that was taken and deleted meanwhile.
    if (newest := folder.files()[-1].name) != name:
        raise _refusal(folder, newest)
    for file in files:
        folder.delete(file.name)
    return name


def _refusal(folder: Place, name: str) -> HeldError:
    holder = _read(folder, name).decode(errors="replace").rpartition(", ")[0]
    return HeldError(f"{folder} is held by {holder[:200] or 'another process'}")


def _read(folder: Place, name: str) -> bytes:
    """Return who holds the lock; nothing if its successor has deleted that."""
    with suppress(FileNotFoundError):
        return folder.read(name)
    return b""


def _renew(folder: Place, name: str, holder: bytes, ended: Event) -> None:
    while not ended.wait(SECONDS / 6):
        with suppress(PlaceError):  # tried again at the next turn
            folder.write(name, holder)
