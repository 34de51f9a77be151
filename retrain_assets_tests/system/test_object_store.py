"""The whole loop by the command line, on a storage root in a real S3 server (SeaweedFS)."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from retrain_assets.stores.backup import back_up, restore
from retrain_assets.stores.place import place_at
from retrain_assets.stores.storage import Storage, storage_from
from retrain_assets_tests.buckets import KEY_ID, SECRET, point_at
from retrain_assets_tests.system.deployment import Deployment, deploy
from retrain_assets_tests.system.processes import BIN, environment, free_port, wait_for
from retrain_assets_tests.world import PlainDaemon, customers, key

pytestmark = pytest.mark.system

BUCKET, TURN = "retrain", 16
ROOT = place_at(f"s3://{BUCKET}/root")
IDENTITY = {
    "name": "tests",
    "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}],
    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
}


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    deployment = deploy(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    settings = {
        "RETRAIN_STORAGE": str(ROOT),
        "RETRAIN_WORK": str(tmp_path / "work"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/work/mlflow.db",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
        deployment.processes.variables[name] = value
    try:
        start_server(deployment, monkeypatch)
        yield deployment
    finally:
        deployment.processes.stop()


def start_server(deployment: Deployment, patch: pytest.MonkeyPatch) -> None:
    """Start SeaweedFS and create a bucket; what speaks gRPC listens 10,000 ports higher."""
    home, ports = deployment.home, [free_port() % 20_000 + 30_000 for _ in range(4)]
    (home / "weed").mkdir()
    (home / "s3.json").write_text(json.dumps({"identities": [IDENTITY]}), encoding="utf-8")
    parts = ("s3.port", "master.port", "volume.port", "filer.port")
    deployment.processes.start(
        *("weed", "weed", "server", "-dir=weed", "-s3", "-s3.config=s3.json"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=64"),
        *("-volume.max=8", *(f"-{part}={port}" for part, port in zip(parts, ports, strict=True))),
    )
    url = f"http://127.0.0.1:{ports[0]}"
    point_at(url, patch)
    patch.delenv("AWS_TIMEOUT")
    client = boto3.client("s3", endpoint_url=url)

    def create() -> bool:
        try:
            client.create_bucket(Bucket=BUCKET)
        except (BotoCoreError, ClientError):
            return False
        return True

    wait_for(create, 60, "bucket")


def retrain(deployment: Deployment, *arguments: str) -> Any:
    """The JSON of a command."""
    done = subprocess.run(
        [BIN / "retrain", *arguments, "--json"],
        cwd=deployment.home,
        env=environment(deployment.home, **deployment.processes.variables),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def land(*numbers: int, **law: Any) -> None:
    for number in numbers:
        content = customers(number, **law).write_csv().encode()
        ROOT.write(f"landing/customers/{key(number)}.csv", content)


def answer(address: str) -> int:
    """The version that answers; 0 where none does yet."""
    row = {"day": key(TURN), "id": 1, "x": 1.0, "plan": "pro"}
    body, headers = json.dumps({"rows": [row]}).encode(), {"Content-Type": "application/json"}
    request = Request(f"{address}/models/churn/predict", body, headers)  # noqa: S310
    try:
        with urlopen(request, timeout=10) as answered:  # noqa: S310
            return int(json.load(answered)["version"])
    except HTTPError as error:
        assert error.code == 503, error.read()  # noqa: PT017 no other answer is expected
        return 0
    except OSError:
        return 0


def test_the_loop_works_in_an_object_store(deployment: Deployment, tmp_path: Path) -> None:
    land(*range(TURN))
    assert [row["action"] for row in retrain(deployment, "tick")["decisions"]] == ["promote"]
    port = free_port()
    deployment.processes.start("serve", "retrain", "serve", "--port", str(port))
    land(*range(TURN, TURN + 20), slope=-2.0)
    list(PlainDaemon(deployment.project.load(), deployment.instance).settle())
    storage = storage_from(os.environ, tmp_path)
    assert [row.action for row in storage.ledger("churn").read().rows] == ["promote"] * 2
    address = f"http://127.0.0.1:{port}"
    wait_for(lambda: answer(address) == 4, 60, "version 4 in service")
    retrain(deployment, "rollback", "churn", "--reason", "a test")
    wait_for(lambda: answer(address) == 2, 60, "version 2 in service")
    deployment.processes.kill("serve")

    parts, again = {"storage": str(ROOT), "work": storage.work}, f"s3://{BUCKET}/again"
    back_up(parts, tmp_path / "copy", print)
    restored = Storage(
        again, f"sqlite:///{tmp_path}/again/mlflow.db", work_folder=tmp_path / "again"
    )
    tables = restore(tmp_path / "copy", {"storage": again, "work": restored.work}, print)
    assert tables == len(storage.tables.names()) > 10
    assert restored.ledger("churn").read() == storage.ledger("churn").read()
    ROOT.clear()
    version = restored.registry("churn").version(2)
    restored.registry("churn").load(2, version.sha256)
    assert not list(tmp_path.glob("s3:*")), "nothing was taken for a path"
