"""Debian's PostgreSQL on loopback, in a temporary folder, killed as a machine would lose it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2

from retrain_assets_tests.system.processes import START_SECONDS, STOP_SECONDS, free_port, wait_for

PASSWORD = "only-for-tests-7f3a"
# It refuses to run as root; the package brings an account for it.
ACCOUNT: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}


@dataclass
class Postgres:
    """A server whose folder is there, running or not."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"postgresql://retrain:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Return once it takes connections."""
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder}
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program("postgres"), "-D", self.folder / "data", "-p", str(self.port), *flags],
                stderr=log,
                start_new_session=True,
                **ACCOUNT,
            )
        wait_for(self.answers, START_SECONDS, f"PostgreSQL; see {self.folder / 'log'}")

    def answers(self) -> bool:
        try:
            psycopg2.connect(self.uri).close()
        except psycopg2.OperationalError:
            return False
        return True

    def count_sessions(self) -> int:
        """How often anybody has connected so far."""
        with psycopg2.connect(self.uri) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT sessions FROM pg_stat_database WHERE datname = 'postgres'")
            return int(cursor.fetchone()[0])

    def count_connections(self) -> int:
        """How many connections are open, beside the one that asks."""
        with psycopg2.connect(self.uri) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = 'postgres'")
            return int(cursor.fetchone()[0])

    def kill(self) -> None:
        """End all of its processes at once, if they live; nothing is written any more."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)


def program(name: str) -> Path:
    """The newest of the installed versions."""
    return max(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: path.parts[4])


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A new server, with nothing left of it in the end."""
    folder = Path(tempfile.mkdtemp(prefix="retrain-postgres-"))
    if ACCOUNT:
        shutil.chown(folder, ACCOUNT["user"], ACCOUNT["group"])
    with tempfile.NamedTemporaryFile("w", dir=folder) as secret:
        secret.write(PASSWORD)
        secret.flush()
        Path(secret.name).chmod(0o644)
        command = [program("initdb"), "-D", folder / "data", "-U", "retrain", "--no-sync"]
        command += ["-A", "scram-sha-256", f"--pwfile={secret.name}", "-E", "UTF8", "--locale=C"]
        subprocess.run(command, check=True, capture_output=True, **ACCOUNT)
    server = Postgres(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)
