"""A lock in an object store: one of many processes or threads holds it, and no dead one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import time_ns

import pytest

from retrain_assets.orchestration.tick import OtherTickError, alone
from retrain_assets.stores import lease
from retrain_assets.stores.place import place_at
from retrain_assets_tests.buckets import bucket_apart

# Two of these take turns, or find a file that only the holder creates and removes.
RACER = """
import os, sys
from pathlib import Path
from retrain_assets.stores import lease
from retrain_assets.stores.place import place_at
mark, held = Path(sys.argv[1]), 0
for _ in range(int(sys.argv[2])):
    try:
        with lease.hold(place_at("s3://leases/race")):
            mark.touch(exist_ok=False)
            mark.unlink()
            held += 1
    except lease.HeldError:
        pass
print(held, flush=True)
if held:
    with lease.hold(place_at("s3://leases/" + str(os.getpid()))):
        print("held", flush=True)
        sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def _store() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, bucket_apart("leases", patch):
        yield


def racer(folder: Path, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RACER, folder / "mark", str(rounds)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def test_processes_take_turns_and_a_dead_one_is_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    racers = [racer(tmp_path, 40) for _ in range(2)]
    for process in racers:
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0, "no turn, or two at once"
        assert process.stdout.readline() == "held\n"
    folder = place_at(f"s3://leases/{racers[0].pid}")
    for process in racers:
        process.kill()
        process.communicate()
    with pytest.raises(lease.HeldError, match=f"process {racers[0].pid}"), lease.hold(folder):
        pass
    later = time_ns() + 2 * lease.SECONDS * 10**9
    monkeypatch.setattr(lease, "time_ns", lambda: later)
    with lease.hold(folder):
        assert len(folder.files()) == 1
    assert [file.size_bytes for file in folder.files()] == [0]


def test_one_of_many_threads_wins_and_the_tick_says_who_works(tmp_path: Path) -> None:
    folder = place_at("s3://leases/root")

    def attempt(_: int) -> int:
        with suppress(lease.HeldError), lease.hold(folder):
            present.append(1)
            assert len(present) == 1
            present.clear()
            return 1
        return 0

    present: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(attempt, range(24))) > 0
    busy = pytest.raises(OtherTickError, match=f"held by .*, process {os.getpid()}; it does all")
    with alone(tmp_path / "a", place=folder), busy, alone(tmp_path / "b", 0.1, folder):
        pass
    with alone(tmp_path / "b", place=folder):
        pass
