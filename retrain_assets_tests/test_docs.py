"""What the documents say is what the code does."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from retrain_assets.cli import main
from retrain_assets.cli.answers import ANSWERS
from retrain_assets.definitions import build_defs
from retrain_assets.orchestration.assets import segments
from retrain_assets.orchestration.checks import CHECK_HELP
from retrain_assets.serving.scoring.request import Contract
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.yaml import load_strictly
from retrain_assets_tests.test_architecture import BELOW

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "retrain_assets"
FOLDERS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_reference_is_made_from_the_specs_and_the_checks() -> None:
    location = ROOT / "docs" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", location)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert written == module.reference(), "run python docs/reference.py"
    schemas = (ROOT / "docs" / "answers.json").read_text(encoding="utf-8")
    assert schemas == module.answers(), "run python docs/reference.py"
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert page == module.operations(page), "run python docs/reference.py"


def test_every_check_says_what_to_do_when_it_fails() -> None:
    graph = build_defs().get_repository_def().asset_graph
    specs = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    of_segments = {name for texts in segments.CHECKS.values() for name in texts}
    assert {spec.name for spec in specs} | of_segments == set(CHECK_HELP)
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


def test_the_request_of_the_readme_has_rows_that_serving_takes() -> None:
    documents = load_strictly(PACKAGE / "defs" / "flight_delay" / "defs.yaml")
    dataset = DatasetSpec.model_validate(documents[0].value["attributes"])
    (request,) = re.findall(r"-d '(\{\"rows\".+?)'\n", (ROOT / "README.md").read_text(), re.DOTALL)
    assert [row["carrier"] for row in Contract(dataset, most=1).read(request.encode())] == ["B6"]


def test_every_command_explains_itself() -> None:
    for name in main.commands:
        shown = CliRunner().invoke(main, [name, "--help"])
        assert shown.exit_code == 0
        assert "--json" in shown.output


def leaves(group: click.Group, before: str = "") -> Iterator[str]:
    """Yield the names of all commands, such as `land sql`."""
    for name, command in group.commands.items():
        inner = isinstance(command, click.Group)
        yield from leaves(command, f"{before}{name} ") if inner else [f"{before}{name}"]


def test_every_command_has_a_schema_of_its_json() -> None:
    assert set(leaves(main)) == set(ANSWERS)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a page that names at least one argument or option."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    lines = [line.partition(" #")[0] for line in blocks.splitlines()]
    for part in [*re.split(r"\n|&&|;", "\n".join(lines)), *re.findall(r"`([^`\n]+)`", text)]:
        match = re.match(r"\s*(?:\w+=\S+ )*(?:\S*/)?retrain ([a-z].*)", part)
        if match:
            yield re.findall(r"[^\s\[\]]+", match[1].replace("\\|", "|"))


def test_every_command_of_the_documents_is_one_with_these_options() -> None:
    number = 0
    for page in [*PAGES, ROOT / "llms.txt", ROOT / "SECURITY.md"]:
        for words in commands(page.read_text(encoding="utf-8")):
            command: Any = main
            while isinstance(command, click.Group) and words:
                name = words.pop(0)
                assert name in command.commands, f"{page.name}: retrain {name} is no command"
                command = command.commands[name]
            options = {text for param in command.params for text in param.opts} | {"--help", "-h"}
            unknown = {word for word in words if re.match("--?[a-z]", word)} - options
            assert not unknown, f"{page.name}: {command.name} has no {unknown}"
            number += 1
    assert number > 100


def test_make_targets_of_the_readme_exist() -> None:
    told = set(
        re.findall(
            r"(?:`|^)make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "dev", "test", "test-system", "check"} <= told <= targets


def table(title: str) -> list[list[str]]:
    """Return the rows of the first table below a heading of docs/design.md."""
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    _, section = page.split(f"\n## {title}\n")
    _, rows = re.split(r"\n\|(?:---\|)+\n", section, maxsplit=1)
    return [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in rows.split("\n\n")[0].splitlines()
    ]


def paths(text: str) -> set[str]:
    """Return the paths of modules and folders of code that stand in backticks."""
    quoted = set(re.findall(r"`(?:retrain_assets/)?([\w/.]+)`", text))
    return {path for path in quoted if path.endswith(".py") or path.partition("/")[0] in FOLDERS}


def test_the_map_says_which_file_to_open_for_each_change() -> None:
    rows = table("Where to change what")
    assert len(rows) >= 20
    for change, place in rows:
        assert paths(place), f"{change}: no file is named"
        for path in paths(place):
            assert (PACKAGE / path).exists(), f"{change}: {path} is not there"


def test_the_table_of_layers_is_what_the_architecture_tests_check() -> None:
    layers = {
        folder.strip("`"): set(re.findall(r"`(\w+)`", below))
        for folder, _, below in table("Layers")
    }
    assert set(layers) == FOLDERS
    assert {folder: layers[folder] for folder in BELOW} == BELOW


def test_modules_named_in_the_documents_are_there() -> None:
    places = [
        PACKAGE,
        *(ROOT / name for name in ("", "retrain_assets_tests", "benchmarks", "docs")),
    ]
    for page in PAGES:
        for path in paths(page.read_text(encoding="utf-8")):
            # A path without .py may be one of the storage root, such as reports/cards.
            is_there = any((place / path).exists() for place in places)
            assert is_there or not path.endswith(".py"), f"{page.name} names {path}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_of_the_documents_lead_somewhere() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!https?:)([\w./-]*)#?([\w-]*)\)", text):
            place = page.parent / target if target else page
            assert place.exists(), f"{page.name} names {target}"
            assert not anchor or anchor in anchors(place), f"{page.name} names {target}#{anchor}"


def test_the_site_is_built_and_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = [page.read_text(encoding="utf-8") for page in tmp_path.glob("*.html")]
    assert len(pages) > len(PAGES) - 2
    fetched = r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//'
    assert not [page for page in pages if re.search(fetched, page)]


def test_make_check_prints_the_size_of_the_code() -> None:
    recipe = (ROOT / "Makefile").read_text().split("\ncheck:")[1].split("\n\n")[0]
    assert "$(BIN)/python benchmarks/size.py" in recipe
