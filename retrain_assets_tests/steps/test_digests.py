"""A change of code is seen where it decides what a model is, and nowhere else."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import retrain_assets
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps import modules
from retrain_assets.steps.modules import find_module
from retrain_assets.steps.state import DECIDING, _as_now, code_digest, recipe_digest
from retrain_assets_tests.world import MODEL

FEATURES = """
def make(rows):
    return rows.select("x")
"""


def model(**changes: Any) -> ModelSpec:
    return ModelSpec.model_validate(MODEL | changes)


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, which is the one that is read."""
    copy = tmp_path / "platform" / "retrain_assets"
    ignored = shutil.ignore_patterns("__pycache__", "*.png")
    shutil.copytree(Path(retrain_assets.__file__).parent, copy, ignore=ignored)
    spec = retrain_assets.__spec__
    assert spec is not None
    monkeypatch.setattr(spec, "submodule_search_locations", [str(copy)])
    return copy


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's own modules."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    modules._installed_from_folders.cache_clear()


def add(path: Path, text: str) -> None:
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{text}\n", encoding="utf-8")


def test_each_deciding_module_is_there() -> None:
    assert [name for name in DECIDING if find_module(name) is None] == []


@pytest.mark.parametrize(
    ("file", "text", "counts"),
    [
        ("steps/features/rows.py", "BATCH_VALUES = 1", True),
        ("steps/decision/train.py", "EXAMPLE_ROWS = 1", True),
        ("steps/features/build.py", "MORE = 1", True),
        ("domain/features/build.py", "MORE = 1", True),
        ("domain/encoder.py", "MORE = 1", True),
        ("domain/features/lookup_partitions.py", "MORE = 1", True),
        ("domain/model/estimator.py", "MORE = 1", True),  # imported by what fits
        ("domain/data/rules.py", "MORE = 1", True),  # imported by what makes features
        ("domain/messages.py", "MORE = 1", False),
        ("domain/decision/gate.py", "MORE = 1", False),
        ("steps/state.py", "MORE = 1", False),
        ("stores/tables/tables.py", "MORE = 1", False),
        ("specs/notify.py", "MORE = 1", False),
        ("steps/features/rows.py", "# A comment.", False),
        ("steps/features/rows.py", "'''A text that stands as a statement.'''", False),
    ],
)
def test_code_of_the_platform_counts_where_it_decides_what_a_model_is(
    file: str, text: str, counts: bool, platform: Path
) -> None:
    before = code_digest(model())
    add(platform / file, text)
    assert (code_digest(model()) != before) is counts


def test_a_docstring_that_is_written_anew_changes_nothing(platform: Path) -> None:
    before, file = code_digest(model()), platform / "steps" / "features" / "rows.py"
    text = file.read_text(encoding="utf-8")
    assert "Compute features from the tables" in text
    file.write_text(
        text.replace("Compute features from the tables", "Other words"), encoding="utf-8"
    )
    assert code_digest(model()) == before


def test_features_of_the_user_and_of_the_platform_in_files_of_one_name_both_count(
    project: Path, platform: Path
) -> None:
    (project / "build.py").write_text(FEATURES, encoding="utf-8")
    spec = model(features={"python": "build:make"})
    digests = [code_digest(spec)]
    add(platform / "domain" / "features" / "build.py", "MORE = 1")
    digests.append(code_digest(spec))
    add(project / "build.py", "MORE = 1")
    digests.append(code_digest(spec))
    assert len({*digests}) == 3
    add(project / "build.py", "# A comment.")
    assert code_digest(spec) == digests[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"features": {"python": "own.deep.made:make"}},
        {"estimator": {"python": "own.deep.made:make"}},
        {"estimator": {"class": "sklearn.svm.SVC", "trusted": ["own.deep.made.make"]}},
        {"gate": {"metric": "python", "python": "own.deep.made:make"}},
    ],
)
def test_what_the_user_names_counts_with_what_it_imports(
    changes: dict[str, Any], project: Path
) -> None:
    folder = project / "own" / "deep"
    folder.mkdir(parents=True)
    imports = (
        "import json, polars\nfrom . import near\nfrom ..above import f\nfrom beside.c import g\n"
    )
    (folder / "made.py").write_text(imports + FEATURES, encoding="utf-8")
    (project / "beside").mkdir()
    files = [folder / "near.py", project / "own" / "above.py", project / "beside" / "c.py"]
    for file in [*files, folder / "other.py"]:
        file.write_text("f = g = 1\n", encoding="utf-8")
    spec = model(**changes)
    digests, recipes = [code_digest(spec)], [recipe_digest(spec)]
    for file in files:
        add(file, "MORE = 1")
        digests.append(code_digest(spec))
        recipes.append(recipe_digest(spec))
    assert len({*digests}) == len({*recipes}) == 4
    add(folder / "other.py", "MORE = 1")
    add(files[0], "def is_being_edited(")
    assert code_digest(spec) != digests[-1]
    add(files[0], "): ...")
    assert {recipe.partition(".")[0] for recipe in recipes} == {spec.recipe}


def test_the_version_of_a_library_stands_for_its_code_unless_it_came_from_a_folder(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = tmp_path / "site-packages"
    folder = libraries / "library-1.dist-info"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(libraries))
    (libraries / "library.py").write_text(FEATURES, encoding="utf-8")
    (folder / "METADATA").write_text("Name: library\nVersion: 1\n", encoding="utf-8")
    (folder / "RECORD").write_text("library.py,,\n", encoding="utf-8")
    (project / "own.py").write_text("from library import make\n", encoding="utf-8")
    spec, counts = model(features={"python": "own:make"}), []
    for number in range(2):
        modules._installed_from_folders.cache_clear()
        before = code_digest(spec)
        add(libraries / "library.py", f"MORE = {number}")
        counts.append(code_digest(spec) != before)
        (folder / "direct_url.json").write_text(json.dumps({"url": "file:///x"}), encoding="utf-8")
    assert counts == [False, True]


def test_without_code_of_the_user_a_recipe_is_that_of_the_spec() -> None:
    assert recipe_digest(model()) == model().recipe


def test_a_recipe_that_was_stored_without_the_code_is_taken_for_that_of_today() -> None:
    assert _as_now("spec", "spec.code") == "spec.code"
    assert _as_now("spec.other", "spec.code") == "spec.other"
    assert _as_now("other", "spec.code") == "other"
    assert _as_now("spec", "spec") == "spec"
