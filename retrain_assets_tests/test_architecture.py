"""The tree tells the story: what each layer may know, checked on its imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import retrain_assets

ROOT = Path(retrain_assets.__file__).parent
FORBIDDEN = {
    "domain": {"dagster", "mlflow", "deltalake", "os", "time", "pathlib", "slack_sdk"},
    "specs": {"dagster", "mlflow", "deltalake", "polars", "os", "time", "sklearn"},
    "stores": {"dagster", "dagster_slack", "dagster_mlflow"},
    "steps": {"dagster", "dagster_slack", "dagster_mlflow"},
    "serving": {"dagster", "dagster_slack", "dagster_mlflow"},
}
UPWARD = {
    "specs": {"domain", "stores", "steps", "orchestration", "components", "serving"},
    "domain": {"stores", "steps", "orchestration", "components", "reports", "serving"},
    "stores": {"steps", "orchestration", "components", "serving"},
    "steps": {"orchestration", "components", "serving"},
    "serving": {"orchestration", "components"},
    "orchestration": {"components"},
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def sources(layer: str) -> list[Path]:
    found = sorted((ROOT / layer).glob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_a_layer_does_not_know_what_is_outside_it(layer: str) -> None:
    offences = {
        (path.name, name)
        for path in sources(layer)
        for name in imported(path)
        if name.partition(".")[0] in FORBIDDEN[layer]
    }
    assert offences == set()


@pytest.mark.parametrize("layer", UPWARD)
def test_no_layer_imports_a_higher_one(layer: str) -> None:
    above = tuple(f"retrain_assets.{name}" for name in UPWARD[layer])
    offences = {
        (path.name, name)
        for path in sources(layer)
        for name in imported(path)
        if name.startswith(above)
    }
    assert offences == set()


def test_loading_the_definitions_imports_nothing_heavy() -> None:
    heavy = ["great_expectations", "mlflow", "sklearn", "pandas", "matplotlib", "scipy", "optuna"]
    code = (
        "import sys, dagster as dg\n"
        "from retrain_assets.definitions import build_defs\n"
        "build_defs().get_repository_def().get_all_jobs()\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


def test_files_stay_short() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    assert [path for path, text in texts.items() if len(text.splitlines()) > 500] == []
