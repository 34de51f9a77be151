"""Workflows, image and manifests pass the tools that their users would run over them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from retrain_assets.cli import main
from retrain_assets_tests.projects import Project, yaml_of

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
# What KServe adds to the description of a pod.
SCALING = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "labels"}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def run(*command: str | Path) -> str:
    """Return what a tool of this environment prints; fail with it where the tool refuses."""
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["actionlint"],
        ["zizmor", "--offline", "--quiet"],
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows"],
    ],
    ids=lambda command: command[0],
)
def test_the_workflows_pass(command: list[str]) -> None:
    assert len(WORKFLOWS) == 3
    run(*command, *WORKFLOWS)


def test_every_action_is_pinned_by_its_commit() -> None:
    uses = [line for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    assert len(uses) >= 6
    pinned = re.compile(r"\s*- uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert [line for line in uses if not pinned.fullmatch(line)] == []


def test_the_image_and_its_services_are_described_soundly() -> None:
    run("hadolint", "Dockerfile")
    files = "compose.yaml", "compose.s3.yaml"
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files)
    services, other = (yaml.safe_load((ROOT / file).read_text())["services"] for file in files)
    ours = {name for name, service in services.items() if service["image"] == "retrain-assets"}
    assert ours == {"mlflow", "code", "daemon", "webserver", "serving"}
    assert all(services[name]["read_only"] for name in ours)
    assert other.keys() - {"s3", "bucket"} == ours - {"mlflow"}, "which read the root"


def test_what_the_image_copies_is_sent_to_the_builder() -> None:
    copied = re.findall(
        r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    sent = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    for path in " ".join(copied).split():
        assert (ROOT / path).exists(), path
        assert {path, str(Path(path).parent)} & sent, f"{path} is ignored"


def test_the_image_reads_every_version_of_the_lock_with_its_hashes() -> None:
    spec = spec_from_file_location("install", ROOT / "deploy" / "image" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    install = module_from_spec(spec)
    spec.loader.exec_module(install)
    lock = (ROOT / "requirements.lock").read_text()
    pins = install.read_lock(lock)
    assert len(pins) == len(re.findall(r"^\S+==", lock, re.MULTILINE)) > 200
    assert pins["uvicorn"].startswith("uvicorn[standard]==")
    assert sum(block.count("--hash=sha256:") for block in pins.values()) == lock.count("--hash=")


def test_what_the_image_compiles_is_there_and_an_extra_may_be_missing(tmp_path: Path) -> None:
    script = ROOT / "deploy" / "image" / "slim.sh"
    (names,) = re.findall(r'for name in """(.+?)"""', script.read_text(), re.DOTALL)
    ours = [name for name in names.split() if name.startswith("retrain_assets.")]
    assert ours == [name for name in ours if find_spec(name)], "a module has another name now"
    (tmp_path / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(["sh", script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "obstore is not compiled: No module named 'obstore'" in done.stdout


@cache
def render(overlay: str) -> list[dict[str, Any]]:
    """Return the resources of an overlay of Kubernetes."""
    text = run("kubectl", "kustomize", f"deploy/kubernetes/overlays/{overlay}")
    return list(yaml.safe_load_all(text))


def pods(resources: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the templates of pods by the name of what starts them."""
    templates: dict[str, Callable[[Any], Any]] = {
        "Deployment": lambda spec: spec["template"],
        "StatefulSet": lambda spec: spec["template"],
        "CronJob": lambda spec: spec["jobTemplate"]["spec"]["template"],
        "InferenceService": lambda spec: {
            "metadata": {"labels": spec["predictor"]["labels"]},
            "spec": {name: spec["predictor"][name] for name in spec["predictor"].keys() - SCALING},
        },
    }
    return {
        resource["metadata"]["name"]: templates[resource["kind"]](resource["spec"])
        for resource in resources
        if resource["kind"] in templates
    }


def fits(resource: dict[str, Any]) -> None:
    """Check a resource against the copy of its definition, which must have each of its fields."""

    def strict(part: Any) -> Any:
        if isinstance(part, list):
            return [strict(item) for item in part]
        if not isinstance(part, dict):
            return part
        closed = {"additionalProperties": False} if isinstance(part.get("properties"), dict) else {}
        return closed | {name: strict(value) for name, value in part.items()}

    path = ROOT / "retrain_assets_tests" / "crds" / f"{resource['kind'].lower()}.yaml"
    definition = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
    (version,) = definition["versions"]
    assert resource["apiVersion"] == f"{definition['group']}/{version['name']}"
    jsonschema.validate(resource, strict(version["schema"]["openAPIV3Schema"]))


def test_seldon_takes_the_model_and_refuses_a_field_that_it_does_not_have() -> None:
    text = (ROOT / "deploy" / "kubernetes" / "seldon" / "model.yaml").read_text(encoding="utf-8")
    model = yaml.safe_load(text)
    fits(model)
    model["spec"]["storageURI"] = model["spec"]["storageUri"]
    with pytest.raises(jsonschema.ValidationError, match="'storageURI' was unexpected"):
        fits(model)


def names(resources: list[dict[str, Any]], *kinds: str) -> set[str]:
    return {found["metadata"]["name"] for found in resources if found["kind"] in kinds}


@pytest.mark.parametrize(
    ("overlay", "services"),
    [
        ("dev", {"mlflow", "serving", "tick", "postgres"}),
        ("prod", {"mlflow", "serving", "dagster"}),
        ("kserve", {"mlflow", "serving", "dagster"}),
    ],
)
def test_kubernetes_takes_what_an_overlay_makes(overlay: str, services: set[str]) -> None:
    resources = render(overlay)
    for resource in resources:
        if resource["kind"] == "InferenceService":
            fits(resource)
        elif resource["kind"] != "ServiceMonitor":  # no schema is here
            kubernetes_validate.validate(resource, "1.37", strict=True)
    templates = pods(resources)
    pod = {"apiVersion": "v1", "kind": "Pod", **templates["serving"]}
    kubernetes_validate.validate(pod, "1.37", strict=True)
    assert templates.keys() == services
    volumes = names(resources, "PersistentVolumeClaim")
    settings = names(resources, "ConfigMap")
    for template in templates.values():
        assert template["metadata"]["labels"]["app.kubernetes.io/part-of"] == "retrain"
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["serviceAccountName"] in names(resources, "ServiceAccount")
        claims = {
            part["persistentVolumeClaim"]["claimName"]
            for part in spec["volumes"]
            if "persistentVolumeClaim" in part
        }
        assert claims <= volumes
        for container in spec["containers"]:
            assert "retrain-assets:" in container["image"] or container["name"] == "postgres"
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            sources = container.get("envFrom", [])
            assert {part["configMapRef"]["name"] for part in sources[:1]} <= settings
            needs_database = container["name"] in ("code", "daemon", "webserver", "tick")
            assert ({"secretRef": {"name": "retrain-database"}} in sources) is needs_database
    labels = [template["metadata"]["labels"].items() for template in templates.values()]
    selectors = [part["spec"]["selector"] for part in resources if part["kind"] == "Service"]
    assert len(selectors) >= 2 - (overlay == "kserve")
    assert all(any(selector.items() <= pod for pod in labels) for selector in selectors)


def test_only_production_needs_a_key_for_requests() -> None:
    for overlay, optional in (("dev", True), ("prod", False)):
        (container,) = pods(render(overlay))["serving"]["spec"]["containers"]
        assert container["env"][0]["valueFrom"]["secretKeyRef"]["optional"] is optional


def test_pods_that_serve_are_added_by_a_metric_that_serving_has() -> None:
    (scaler,) = [part for part in render("prod") if part["kind"] == "HorizontalPodAutoscaler"]
    metrics = scaler["spec"]["metrics"]
    (metric,) = [part["pods"]["metric"]["name"] for part in metrics if part["type"] == "Pods"]
    (rule,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "adapter.yaml").read_text())["rules"]
    assert rule["name"]["as"] == metric
    histogram, ending, _ = rule["seriesQuery"].partition("_sum{")
    assert (histogram, ending) == ("retrain_request_seconds", "_sum{")
    source = (ROOT / "retrain_assets" / "serving" / "metrics.py").read_text(encoding="utf-8")
    assert f'"{histogram}"' in source


def test_two_containers_may_start_jobs_of_the_image_and_none_that_runs_code_of_people() -> None:
    resources = render("prod")
    pod = pods(resources)["dagster"]["spec"]
    containers = {part["name"]: part for part in pod["containers"]}
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    mounts = {
        name: {m["mountPath"] for m in part["volumeMounts"]} for name, part in containers.items()
    }
    assert {name for name in mounts if token in mounts[name]} == {"daemon", "webserver"}
    assert not pod["shareProcessNamespace"]
    assert all("/project/dagster.yaml" in places for places in mounts.values())
    values = {part["name"]: part.get("value") for part in containers["daemon"]["env"]}
    assert values["RETRAIN_IMAGE"] == containers["code"]["image"]
    assert {"dagster-instance", "retrain-environment"} <= names(resources, "ConfigMap")
    (role,) = [part for part in resources if part["kind"] == "Role"]
    assert {tuple(rule["apiGroups"]) for rule in role["rules"]} == {("batch",), ("",)}
    assert "*" not in str(role["rules"])


@pytest.mark.parametrize("overlay", ["prod", "kserve"])
def test_what_models_add_to_the_pods_that_serve_is_a_component_of_an_overlay(
    overlay: str, project: Project, tmp_path: Path
) -> None:
    project.write(yaml_of({"resources": {"serving": {"cpu": 0.25, "memory": "3Gi"}}}))
    with chdir(project.root):
        result = CliRunner().invoke(main, ["component"], env={"DAGSTER_HOME": str(tmp_path)})
    assert result.exit_code == 0, result.output
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    folder = tmp_path / "deploy" / "kubernetes" / "overlays" / overlay
    (folder / "sizes").mkdir()
    (folder / "sizes" / "kustomization.yaml").write_text(result.stdout, encoding="utf-8")
    settings = yaml.safe_load((folder / "kustomization.yaml").read_text())
    settings.setdefault("components", []).append("sizes")
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    rendered = yaml.safe_load_all(run("kubectl", "kustomize", folder))
    (container,) = pods([*rendered])["serving"]["spec"]["containers"]
    requests = {"cpu": "750m", "memory": "4096Mi"}
    assert container["resources"] == {"requests": requests, "limits": {"memory": "4096Mi"}}


def test_commands_of_manifests_and_compose_exist() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    commands = [service["command"].split() for service in services if "command" in service]
    for overlay in ("dev", "prod", "kserve"):
        for template in pods(render(overlay)).values():
            containers = template["spec"]["containers"]
            commands += [part["command"] for part in containers if "command" in part]
    assert len(commands) >= 10
    assert {command[0] for command in commands if not (BIN / command[0]).exists()} == set()
