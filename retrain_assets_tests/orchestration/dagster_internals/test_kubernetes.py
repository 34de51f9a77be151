"""The Job that a run becomes, as the official client sends it to an API on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster._core import remote_origin
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import LaunchRunContext, WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin

from retrain_assets.orchestration import jobs
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.dagster_internals.runs import own_process
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets_tests.servers import running
from retrain_assets_tests.world import DATASET, MODEL

ROOT = Path(__file__).parents[3]
SETTINGS = ROOT / "deploy" / "kubernetes" / "jobs" / "dagster.yaml"
IMAGE = "ghcr.io/example/retrain-assets@sha256:abc"
LAUNCHED = "/apis/batch/v1/namespaces/theirs/jobs"


class Api(ThreadingHTTPServer):
    """An API server that only keeps Jobs."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.status, self.fails = {"active": 1}, False
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        assert self.path == LAUNCHED
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.jobs[job["metadata"]["name"]] = job
        self.answer(201, job)

    def do_GET(self) -> None:
        name = self.path.removeprefix(f"{LAUNCHED}/").removesuffix("/status")
        job = self.server.jobs.get(name)
        if self.server.fails or job is None:
            code = 403 if self.server.fails else 404
            self.answer(code, {"kind": "Status", "apiVersion": "v1", "code": code})
        else:
            self.answer(200, job | {"status": self.server.status})

    def answer(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with running(Api()) as server:
        yield server


@pytest.fixture(scope="module")
def instance(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """Dagster with the settings of the manifests, outside of a cluster."""
    tmp_path = tmp_path_factory.mktemp("home")
    text = SETTINGS.read_text(encoding="utf-8").replace("data/dagster", str(tmp_path / "dagster"))
    settings = yaml.safe_load(text)
    access = tmp_path / "kubeconfig"
    address = f"http://127.0.0.1:{api.server_address[1]}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "users": [{"name": "u", "user": {}}],
    }
    access.write_text(yaml.safe_dump(config), encoding="utf-8")
    settings["run_launcher"]["config"] |= {
        "load_incluster_config": False,
        "kubeconfig_file": str(access),
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POD_NAMESPACE", "theirs")
        patch.setenv("RETRAIN_IMAGE", IMAGE)
        with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
            yield opened


def create(instance: dg.DagsterInstance, job: str, tags: dict[str, Any]) -> dg.DagsterRun:
    """A run of which the daemon would ask the launcher."""
    python = RepositoryPythonOrigin("python", ModuleCodePointer("theirs.definitions", "defs", "/"))
    server = remote_origin.GrpcServerCodeLocationOrigin("127.0.0.1", 4000, None, "theirs")
    origin = remote_origin.RemoteRepositoryOrigin(server, "__repository__")
    definition = dg.job(name=job, tags=tags)(lambda: None)
    return instance.create_run_for_job(
        definition,
        status=dg.DagsterRunStatus.STARTED,
        job_code_origin=JobPythonOrigin(job, python),
        remote_job_origin=remote_origin.RemoteJobOrigin(origin, job),
        tags=definition.tags,
    )


def launch(instance: dg.DagsterInstance, job: str, tags: dict[str, Any]) -> dg.DagsterRun:
    run = create(instance, job, tags)
    instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
    return run


def model(**resources: Any) -> Model:
    spec = ModelSpec.model_validate(MODEL | {"resources": resources})
    return Model(spec, DatasetSpec.model_validate(DATASET), {})


def test_a_retraining_is_a_job_with_the_resources_of_its_yaml(
    api: Api, instance: dg.DagsterInstance
) -> None:
    spec = model(cpu=0.5, memory="4Gi", retrain={"memory": "16Gi"})
    for job in (jobs.retrain_job(spec), jobs.monitor_job(spec), jobs.retrain_job(model())):
        run = launch(instance, job.name, dict(job.tags or {}))
        assert f"dagster-run-{run.run_id}" in api.jobs
    retrain, monitor, plain = api.jobs.values()
    for job in api.jobs.values():
        kubernetes_validate.validate(job, "1.37", strict=True)
    (container,) = retrain["spec"]["template"]["spec"]["containers"]
    assert container["image"] == IMAGE
    *command, run_of = container["args"]
    assert command == ["python", "-m", "dagster", "api", "execute_run"]
    assert "theirs.definitions" in run_of
    assert container["resources"] == {
        "requests": {"cpu": "0.5", "memory": "16Gi"},
        "limits": {"memory": "16Gi"},
    }
    sources = [next(iter(part.items())) for part in container["envFrom"]]
    assert [(kind, part["name"]) for kind, part in sources] == [
        ("configMapRef", "retrain-environment"),
        ("secretRef", "retrain-database"),
        ("secretRef", "retrain-secrets"),
    ]
    values = {part["name"]: part.get("value") for part in container["env"]}
    assert values == {"DAGSTER_HOME": "/project", "DAGSTER_RUN_JOB_NAME": "churn_retrain"}
    assert {part["mountPath"] for part in container["volumeMounts"]} == {
        "/project/data",
        "/tmp",  # noqa: S108 of the container
    }
    pod = retrain["spec"]["template"]
    assert pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "retrain"
    assert pod["metadata"]["labels"]["dagster/job"] == "churn_retrain"
    assert (pod["spec"]["serviceAccountName"], retrain["spec"]["backoffLimit"]) == ("retrain", 0)
    assert pod["spec"]["automountServiceAccountToken"] is False
    others = [
        job["spec"]["template"]["spec"]["containers"][0]["resources"] for job in (monitor, plain)
    ]
    assert others == [
        {"requests": {"cpu": "0.5", "memory": "4Gi"}, "limits": {"memory": "4Gi"}},
        {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "8Gi"}},
    ]


def test_a_tag_can_ask_for_resources_and_for_nothing_else(instance: dg.DagsterInstance) -> None:
    other = {"dagster-k8s/config": {"container_config": {"image": "evil"}}}
    with pytest.raises(Exception, match=r"allowed list: container_config\.image"):
        launch(instance, "churn_retrain", other)


def test_a_run_fails_when_its_job_is_gone_and_not_when_the_api_is(
    api: Api, instance: dg.DagsterInstance
) -> None:
    run = launch(instance, "churn_retrain", {})
    check = instance.run_launcher.check_run_worker_health
    assert check(run).status == WorkerStatus.RUNNING
    api.fails = True
    assert check(run).status == WorkerStatus.RUNNING
    api.fails, api.status = False, {"failed": 1}
    assert check(run).status == WorkerStatus.FAILED
    api.jobs.clear()
    assert check(run).status == WorkerStatus.UNKNOWN
    command = create(instance, "churn_rollback", own_process())
    assert check(command).status == WorkerStatus.RUNNING
    host, number, _ = own_process()["retrain/process"].split()
    dead = create(instance, "churn_rollback", {"retrain/process": f"{host} {number} 0"})
    assert check(dead).status == WorkerStatus.FAILED


def test_the_settings_are_those_of_one_machine_but_for_the_launcher() -> None:
    jobs_settings, settings = (
        yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (SETTINGS, ROOT / "dagster.yaml")
    )
    del jobs_settings["run_launcher"], settings["run_launcher"]
    assert jobs_settings == settings
