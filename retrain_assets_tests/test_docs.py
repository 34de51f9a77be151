"""What the documents say is what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from click.testing import CliRunner

from retrain_assets.cli import main
from retrain_assets.definitions import build_defs
from retrain_assets.orchestration.checks import CHECK_HELP
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.yaml import load_strictly

ROOT = Path(__file__).parents[1]


def test_the_reference_is_made_from_the_specs_and_the_checks() -> None:
    location = ROOT / "docs" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", location)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert written == module.reference(), "run python docs/reference.py"
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert page == module.operations(page), "run python docs/reference.py"


def test_every_check_says_what_to_do_when_it_fails() -> None:
    graph = build_defs().get_repository_def().asset_graph
    specs = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    assert {spec.name for spec in specs} == set(CHECK_HELP)
    assert all(f"When red: {CHECK_HELP[spec.name]}" in (spec.description or "") for spec in specs)


def test_the_readme_lists_every_command_and_no_other() -> None:
    told = set(re.findall(r"^\| `retrain (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert told == set(main.commands)


def test_the_yaml_of_the_readme_is_sound(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "defs.yaml").write_text(text, encoding="utf-8")
    dataset, model = load_strictly(tmp_path / "defs.yaml")
    assert DatasetSpec.model_validate(dataset.value["attributes"]).format == "parquet"
    assert ModelSpec.model_validate(model.value["attributes"]).dataset == "flights"


def test_every_command_explains_itself() -> None:
    for name in main.commands:
        shown = CliRunner().invoke(main, [name, "--help"])
        assert shown.exit_code == 0
        assert "--json" in shown.output


def test_make_targets_of_the_readme_exist() -> None:
    told = set(
        re.findall(
            r"(?:`|^)make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "dev", "test", "test-system", "check"} <= told <= targets


def test_files_named_in_the_documents_are_there() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([\w./-]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} names {target}"
