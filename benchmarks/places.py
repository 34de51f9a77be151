"""CPU time of the loop with its root in a folder or in an object store, without that of the store.

    python benchmarks/places.py
    AWS_ENDPOINT_URL=… AWS_ALLOW_HTTP=true python benchmarks/places.py s3://bucket/folder

28 days land, of which the law changes after 16: ingest, monitoring, two retrainings with promotion.
The folder of the object store must be empty.
"""

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import dagster as dg

from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.stores.storage import Storage, storage_from
from retrain_assets_tests import world

TURN, DAYS = 16, 28


@dataclass
class Loop(world.World):
    """The world of the tests, on the root that the environment names."""

    @property
    def storage(self) -> Storage:
        """The root."""
        return storage_from(os.environ, self.root)

    def deliver(self, number: int) -> None:
        """Let a day land."""
        law = {"slope": -2.0} if number >= TURN else {}
        content = world.customers(number, **law).write_csv().encode()
        self.storage.landing_place.write(f"customers/{world.key(number)}.csv", content)


def measure(root: str) -> None:
    """Run the loop and print its CPU time and decisions."""
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.ephemeral() as instance:
        database = f"sqlite:///{folder}/mlflow.db"
        settings = {"RETRAIN_WORK": folder, "MLFLOW_TRACKING_URI": database}
        settings |= {"RETRAIN_STORAGE": root or f"{folder}/root"}
        plain = world.new_world(Path(folder), instance)
        loop = Loop(plain.root, plain.instance, plain.dataset, plain.spec)
        with (
            patch.dict(os.environ, settings),
            patch.object(world, "StorageResource", lambda **_: StorageResource()),
        ):
            start = time.process_time()
            for number in range(DAYS):
                loop.deliver(number)
                if number >= TURN - 1:
                    loop.settle()
            seconds = time.process_time() - start
            rows = loop.state.ledger.read().rows
        decisions = ", ".join(f"{row.action} {row.version} as of {row.as_of}" for row in rows)
        print(f"{root or 'a folder'}: {seconds:.1f} s of CPU time; {decisions}")


if __name__ == "__main__":
    measure(sys.argv[1] if len(sys.argv) > 1 else "")
