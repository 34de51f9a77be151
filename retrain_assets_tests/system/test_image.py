"""The image, built from the Dockerfile over a Debian base, and its services by their commands.

Here they share one network, which has loopback alone. Not here: the schema of compose.yaml.
"""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from retrain_assets_tests.system.processes import wait_for

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[2]
PROGRAMS = "buildah", "podman", "runc", "mmdebstrap"
# The name that the Dockerfile uses, at a place where it hides no image that was pulled.
NAMES = BASE, IMAGE = "localhost/soak/python:3.11-slim-bookworm", "localhost/soak/retrain-assets"
PACKAGES = "--include=python3,python3-venv,ca-certificates"
# For networks with an authority of their own.
MACHINE = "/etc/ssl/certs", "/etc/pip.conf"
COMPOSED = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"].items()
SERVICES = {name: service for name, service in COMPOSED if service["image"] == "retrain-assets"}
SETTINGS = (
    *("--env=CODE_SERVER_HOST=127.0.0.1", "--env=MLFLOW_TRACKING_URI=http://127.0.0.1:5000"),
    "--env=MLFLOW_BACKEND_STORE_URI=sqlite:////project/data/mlflow.db",
)
# The limits are those that need no capability to be raised.
LIMITS = "--runtime=runc", "--ulimit=nofile=1000:1000", "--ulimit=nproc=1000:1000"
# Where all models answer, and where nobody listens.
READY, NOBODY = "http://127.0.0.1:8000/ready", "http://127.0.0.1:9/health"
SECONDS = 600


def run(*command: str | Path, seconds: float = SECONDS) -> str:
    """Return what a command printed, which has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stderr[-4000:]}"
    return done.stdout.strip()


def facts(name: str) -> dict[str, Any]:
    """Return what podman knows of an image."""
    (found,) = json.loads(run("podman", "image", "inspect", name))
    return dict(found)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    assert not missing, f"run: apt-get install --no-install-recommends {' '.join(missing)}"
    base = tmp_path_factory.mktemp("base") / "base.tar"
    mounts = [f"--volume={path}:{path}:ro" for path in MACHINE if Path(path).exists()]
    build = ["--isolation=chroot", "--network=host", "--pull-never", "--format=docker"]
    arguments = [f"--build-arg=BASE={BASE}", "--build-arg=REVISION=soak", f"--tag={IMAGE}"]
    with ExitStack() as stack:
        run("mmdebstrap", "--variant=minbase", PACKAGES, "bookworm", base, seconds=1800)
        stack.callback(subprocess.run, ["podman", "rmi", "--force", *NAMES], check=False)
        run("podman", "import", base, BASE)
        base.unlink()
        run("buildah", "bud", *build, *mounts, *arguments, ROOT, seconds=3600)
        yield facts(IMAGE)


@pytest.fixture(scope="module")
def volume() -> Iterator[str]:
    name = run("podman", "volume", "create")
    yield name
    run("podman", "volume", "rm", name)


def command_of(volume: str, network: str, *options: str) -> list[str]:
    """Return how a container is started, but for its command, as docs/production.md says it."""
    safe = "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", f"--volume={volume}:/project/data"
    command = ["podman", "run", "--no-healthcheck", f"--network={network}", *LIMITS]
    return [*command, *safe, *options, IMAGE]


def test_it_is_described_and_no_larger_than_documented(image: dict[str, Any]) -> None:
    assert image["User"] == "10001:10001"
    labels = {name.split(".")[-1]: text for name, text in image["Labels"].items()}
    stated = {"title": "retrain-assets", "licenses": "Apache-2.0", "revision": "soak"}
    assert labels | stated == labels
    page = (ROOT / "docs" / "production.md").read_text("utf-8")
    (gigabytes,) = re.findall(r"The image takes ([\d.]+) GB beside its base", page)
    assert image["Size"] - facts(BASE)["Size"] < 1.1e9 * float(gigabytes)


@pytest.mark.usefixtures("image")
def test_it_runs_as_a_user_on_a_root_that_is_read_only(volume: str) -> None:
    script = "id -u; touch /tmp/x data/x && rm data/x; touch /x /project/x 2>&1 || true"
    user, *refused = run(*command_of(volume, "none", "--rm"), "sh", "-c", script).splitlines()
    assert user == "10001"
    assert [line.count("Read-only file system") for line in refused] == [1, 1]


def test_each_service_starts_by_its_command_and_is_healthy(
    image: dict[str, Any], volume: str
) -> None:
    demo = "retrain", "demo", "--to", "2013-03-15", "--json"
    text = run(*command_of(volume, "none", "--rm"), *demo, seconds=1800)
    promoted = [row for row in json.loads(text)["decisions"] if row["action"] == "promote"]
    assert {row["model"] for row in promoted} == {"arrival_delay", "flight_delay"}
    network, usual = "none", {"test": image["Healthcheck"]["Test"]}
    with ExitStack() as stack:
        for name, service in SERVICES.items():
            command = command_of(volume, network, "--detach", *SETTINGS)
            container = run(*command, *shlex.split(service["command"]))
            stack.callback(run, "podman", "rm", "--force", "--time=20", container)
            stack.callback(subprocess.run, ["podman", "logs", "--tail=20", container], check=False)
            network = f"container:{container}" if network == "none" else network
            check = service.get("healthcheck", usual)["test"][1:]
            health = partial(answers, container, check)
            wait_for(partial(health, service["environment"].get("HEALTH_URL", "")), SECONDS, name)
        wait_for(partial(health, READY), SECONDS, "model that is ready")
        assert not health(NOBODY), "the check fails where nothing answers"


def answers(container: str, check: list[str], address: str = "") -> bool:
    """Return whether a check passes that is made in a container, of an address or its own."""
    variable = [f"--env=HEALTH_URL={address}"] if address else []
    command = ["podman", "exec", *variable, container, *check]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
