"""From an empty folder and somebody's file to a first model, by the command line alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import click
import pytest
from click.testing import CliRunner, Result

from retrain_assets.cli import main
from retrain_assets.stores.registry.registry import ModelRegistry
from retrain_assets_tests.domain.start.test_guess import orders
from retrain_assets_tests.world import copy_database

ROOT = Path(__file__).parents[1]


def retrain(folder: Path, *arguments: str) -> Result:
    env = {"RETRAIN_STORAGE": "", "DAGSTER_HOME": str(folder)}
    with chdir(folder):
        return CliRunner().invoke(main, arguments, env=env)


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project with a model whose YAML was written from a file."""
    folder = tmp_path_factory.mktemp("empty")
    written = answer(retrain(folder, "init", "first_hour", "--json"))
    assert "first_hour/definitions.py" in written["written"]
    orders(12).write_csv(folder / "orders.csv")
    os.utime(folder / "orders.csv", (0, 0))  # so that nobody waits until it has settled
    (folder / "first_hour" / "data").mkdir()
    copy_database(folder / "first_hour" / "data" / "mlflow.db")
    stated = ("--from", "../orders.csv", "--target", "late", "--yes", "--json")
    value = answer(retrain(folder / "first_hour", "new", "lateness", *stated))
    assert value["next"] == [*("retrain train lateness", "retrain play lateness", "dagster dev")]
    assert [Path(place).name for place in value["landed"]] == ["orders.csv"]
    return folder / "first_hour"


def test_the_yaml_that_is_written_trains_a_first_model_unchanged(project: Path) -> None:
    decision = answer(retrain(project, "train", "lateness", "--json"))
    assert (decision["action"], decision["as_of"]) == ("promote", "2023-01-13")
    status = answer(retrain(project, "status", "lateness", "--json"))
    assert status["production"]["version"] == decision["version"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("new", "lateness", "--from", "../orders.csv", "--target", "late"), "is there already"),
        (
            ("new", "../x", "--from", "../orders.csv", "--target", "late"),
            "is not a name for a model",
        ),
        (
            ("new", "x", "--from", "../orders.csv", "--target", "nope"),
            "is neither a column nor SQL",
        ),
        (
            ("new", "x", "--from", "../orders.csv", "--target", "late", "--dataset", "orders"),
            "dataset orders is there already",
        ),
        (("train", "nope"), "no model named 'nope'; there are lateness"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    project: Path, arguments: tuple[str, ...], why: str
) -> None:
    before = sorted(project.rglob("defs.yaml"))
    result = retrain(project, *arguments)
    assert result.exit_code == 1
    assert why in result.stderr
    assert sorted(project.rglob("defs.yaml")) == before


def test_a_model_is_renamed_also_after_a_kill_and_retires_with_its_dataset(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, why = tmp_path / "copy", ("--reason", "clearer", "--yes", "--json")
    shutil.copytree(project, folder)
    assert "say --yes" in retrain(folder, "rename", "lateness", "late", "--reason", "x").stderr
    with monkeypatch.context() as patch:
        patch.setattr(ModelRegistry, "rename", Mock(side_effect=RuntimeError("killed")))
        assert "killed" in retrain(folder, "rename", "lateness", "late", *why).stderr
        assert answer(retrain(folder, "status", "--json")) == []
    assert answer(retrain(folder, "rename", "lateness", "late", *why))["new"] == "late"
    assert answer(retrain(folder, "rename", "orders", "sales", *why))["kind"] == "dataset"
    history = answer(retrain(folder, "history", "late", "--verify", "--json"))
    assert [row["action"] for row in history] == ["promote", "rename"]
    version = str(history[0]["version"])
    assert answer(retrain(folder, "reproduce", "late", version, "--json"))["identical"]
    assert "late uses dataset sales" in retrain(folder, "retire", "sales", *why).stderr
    text = (folder / "first_hour" / "defs" / "lateness" / "defs.yaml").read_text(encoding="utf-8")
    for name in ("late", "sales"):
        assert answer(retrain(folder, "retire", name, *why))["action"] == "retire"
    assert answer(retrain(folder, "status", "--json")) == []
    retired = sorted(folder.rglob("*.retired.yaml"))
    assert [path.name for path in retired] == ["late.retired.yaml", "sales.retired.yaml"]
    parts = [path.read_text(encoding="utf-8").split("\n", 1) for path in retired[::-1]]
    assert "".join(rest for _, rest in parts) == text
    assert all("clearer" in note for note, _ in parts)
    assert (folder / "data" / "delta" / "late" / "ledger").is_dir()


def test_outside_a_project_it_says_how_to_make_one(tmp_path: Path) -> None:
    orders(5).write_csv(tmp_path / "orders.csv")
    (tmp_path / "workspace.yaml").touch()  # where the search for a project ends
    result = retrain(tmp_path, "new", "m", "--from", "orders.csv", "--target", "late")
    assert "`retrain init PROJECT` first" in result.stderr
    (tmp_path / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    assert "without [tool.dg]" in retrain(tmp_path, "init", ".").stderr


@pytest.mark.parametrize("name", ["class", "json", "numpy", "retrain_assets"])
def test_the_package_of_a_project_hides_no_other(tmp_path: Path, name: str) -> None:
    written = answer(retrain(tmp_path, "init", name, "--json"))["written"]
    assert f"{name}_project/definitions.py" in written


def test_an_existing_project_gets_only_the_settings_that_it_lacks(tmp_path: Path) -> None:
    settings = '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "theirs"\n'
    (tmp_path / "pyproject.toml").write_text(settings, encoding="utf-8")
    value = answer(retrain(tmp_path, "init", ".", "--json"))
    assert value["written"] == ["dagster.yaml", ".env"]
    assert value["next"][0] == "echo data/ >> .gitignore"


def test_the_shell_completes_commands_once_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/fish")
    assert retrain(tmp_path, "--install-completion").exit_code == 0
    (file,) = tmp_path.rglob("retrain.fish")
    assert "_RETRAIN_COMPLETE=fish_complete" in file.read_text(encoding="utf-8")
    monkeypatch.setenv("SHELL", "/bin/csh")
    result = retrain(tmp_path, "--install-completion")
    assert (result.exit_code, "SHELL is csh" in result.stderr) == (1, True)


def test_no_color_leaves_colours_out(tmp_path: Path) -> None:
    @main.command("painted")
    def paint() -> None:
        click.echo(click.style("text", fg="red"))

    shown = []
    try:
        for value in ("", "1"):
            env = {"DAGSTER_HOME": str(tmp_path), "NO_COLOR": value}
            shown.append(CliRunner().invoke(main, ["painted"], color=True, env=env).stdout)
    finally:
        del main.commands["painted"]
    assert shown == ["\x1b[31mtext\x1b[0m\n", "text\n"]


@pytest.mark.soak
@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_commands_of_the_quickstart_run_in_order(tmp_path: Path, page: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "retrain init" in block]
    lines = [line for line in block.splitlines() if line.startswith("retrain ")]
    assert len(lines) >= 4
    orders(60).rename({"late": "churned"}).write_csv(tmp_path / "customers.csv")
    script = "\n".join(lines)
    place = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, env=os.environ | place, text=True, check=False,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "promote" in done.stdout
