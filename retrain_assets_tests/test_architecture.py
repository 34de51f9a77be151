"""The tree tells the story: what each layer may import, checked on every file at any depth."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import retrain_assets

ROOT = Path(retrain_assets.__file__).parent
PROJECT = ROOT.parent
FORBIDDEN = {
    "domain": {"dagster", "mlflow", "deltalake", "os", "time", "pathlib", "slack_sdk"},
    "specs": {"dagster", "mlflow", "deltalake", "polars", "os", "time", "sklearn"},
    "stores": {"dagster", "dagster_slack", "dagster_mlflow"},
    "reports": {"dagster", "mlflow", "deltalake", "os", "time", "slack_sdk"},
    "steps": {"dagster", "dagster_slack", "dagster_mlflow"},
    "serving": {"dagster", "dagster_slack", "dagster_mlflow"},
}
# What a layer may import besides itself; docs/design.md shows the same table.
BELOW = {
    "specs": set(),
    "domain": {"specs"},
    "stores": {"domain", "specs"},
    "reports": {"domain", "specs"},
    "steps": {"stores", "reports", "domain", "specs"},
    "serving": {"steps", "stores", "domain", "specs"},
    "orchestration": {"steps", "stores", "reports", "domain", "specs"},
    "components": {"orchestration", "steps", "stores", "domain", "specs"},
}
MAX_LINES = 500
MAX_FUNCTION, MAX_ASSET = 40, 15  # lines of code


def sources(layer: str = "") -> list[Path]:
    paths = sorted((ROOT / layer).rglob("*.py"))
    assert paths
    return paths


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sources()}


def imported(path: Path) -> Iterator[str]:
    """Yield each module that a file imports, for typing only and inside functions as well."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = names & MODULES.keys()
            yield from submodules
            if names - submodules:
                yield node.module


def test_one_module_writes_delta_tables_so_that_no_writer_changes_a_value() -> None:
    writers = {path.name for path in sources() if "write_deltalake" in path.read_text()}
    assert writers == {"tables.py"}


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_a_layer_does_not_know_what_is_outside_it(layer: str) -> None:
    offences = {
        (module_name(path), name)
        for path in sources(layer)
        for name in imported(path)
        if name.partition(".")[0] in FORBIDDEN[layer]
    }
    assert offences == set()


@pytest.mark.parametrize("layer", BELOW)
def test_no_layer_imports_a_higher_one(layer: str) -> None:
    offences = {
        (module_name(path), name)
        for path in sources(layer)
        for name in imported(path)
        if name.startswith("retrain_assets.")
        and name.split(".")[1] not in BELOW[layer] | {layer, "errors"}
    }
    assert offences == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        name: {other for other in imported(path) if other in MODULES and other != name}
        for name, path in MODULES.items()
        if path.name != "__init__.py"
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_circle_test_sees_imports_for_typing_only(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("if TYPE_CHECKING:\n    from retrain_assets.specs.base import Spec\n")
    assert list(imported(module)) == ["retrain_assets.specs.base"]


def test_loading_the_definitions_imports_nothing_heavy() -> None:
    heavy = ["great_expectations", "mlflow", "sklearn", "pandas", "matplotlib", "scipy"]
    heavy += ["lightgbm", "xgboost", "catboost", "sqlalchemy"]
    code = (
        "import sys, dagster as dg\n"
        "from retrain_assets.definitions import build_defs\n"
        "build_defs().get_repository_def().get_all_jobs()\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


def test_only_one_folder_reaches_into_dagsters_internals() -> None:
    offences = {
        (module_name(path), name)
        for path in sources()
        for name in imported(path)
        if name.startswith(("dagster._", "dagster_shared"))
        and "dagster_internals" not in path.parts
    }
    assert offences == set()


def test_files_stay_short() -> None:
    counts = {module_name(path): len(path.read_text("utf-8").splitlines()) for path in sources()}
    assert len(counts) == len(sources())
    assert {name: count for name, count in counts.items() if count > MAX_LINES} == {}


def test_each_folder_says_what_belongs_there_and_what_does_not() -> None:
    silent = [
        module_name(path)
        for path in sources()
        if path.name == "__init__.py"
        and not re.search(r"\bnot\b", ast.get_docstring(parsed(path)) or "", re.IGNORECASE)
    ]
    assert silent == []


def test_functions_and_asset_bodies_stay_short() -> None:
    location = PROJECT / "benchmarks" / "size.py"
    spec = importlib.util.spec_from_file_location("size", location)
    assert spec is not None
    assert spec.loader is not None
    size = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(size)
    too_long = {}
    for path in sources():
        text, tree = path.read_text(encoding="utf-8"), parsed(path)
        lines = size.code_lines(text, tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            asset = any("asset(" in ast.unparse(item) for item in node.decorator_list)
            start = node.body[0].lineno if asset else node.lineno
            count = len(lines.intersection(range(start, (node.end_lineno or start) + 1)))
            if count > (MAX_ASSET if asset else MAX_FUNCTION):
                too_long[f"{module_name(path)}:{node.name}"] = count
    assert too_long == {}
