"""A Dagster project of somebody else's: a folder of its own, with its own YAML."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from retrain_assets.definitions import build_defs
from retrain_assets.specs.base import SpecError
from retrain_assets_tests.world import DATASET, MODEL

_NUMBERS = itertools.count()
SETTINGS = """
directory_type = "project"
[project]
root_module = "{name}"
code_location_target_module = "{name}.definitions"
"""
DEFINITIONS = """
from pathlib import Path
import dagster as dg
@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""


@dataclass(frozen=True)
class Project:
    """A project on the import path."""

    root: Path
    name: str

    @property
    def package(self) -> Path:
        return self.root / "src" / self.name

    def write(self, text: str | bytes, folder: str = "mine") -> Path:
        """One YAML file of its definitions."""
        path = self.package / "defs" / folder / "defs.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def load(self) -> dg.Definitions:
        """As a project loads that calls our `build_defs`."""
        return build_defs(project=self.package)

    def load_plainly(self) -> dg.Definitions:
        """As a project loads that only knows Dagster."""
        return dg.load_from_defs_folder(path_within_project=self.package)

    def refusal(self, *, plainly: bool = False) -> str:
        """What is said of its YAML; fails where it is accepted."""
        with pytest.raises(Exception, match=r"(?s).*") as caught:
            self.load_plainly() if plainly else self.load()
        error: BaseException | None = caught.value
        while error is not None and not isinstance(error, SpecError):
            error = error.__cause__
        assert error is not None, f"not refused by a spec: {caught.value!r}"
        assert error.__cause__ is None or not plainly
        return str(error)


def new_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = write_project(root)
    monkeypatch.syspath_prepend(str(root / "src"))
    return project


def write_project(root: Path, definitions: str = DEFINITIONS) -> Project:
    """A project whose `src` is not on the import path yet."""
    project = Project(root, f"theirs_{next(_NUMBERS)}")
    project.package.joinpath("defs").mkdir(parents=True)
    (root / "dg.toml").write_text(SETTINGS.format(name=project.name), encoding="utf-8")
    (project.package / "__init__.py").touch()
    (project.package / "definitions.py").write_text(definitions, encoding="utf-8")
    return project


def document(kind: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"retrain_assets.{kind}", "attributes": attributes}


def yaml_of(
    model: dict[str, Any] | None = None, dataset: dict[str, Any] | None = None, *more: Any
) -> str:
    """A dataset, a model on it, and further documents."""
    parts = [
        document("LandedDataset", DATASET | (dataset or {})),
        document("RetrainedModel", MODEL | (model or {})),
        *more,
    ]
    return yaml.safe_dump_all(parts, sort_keys=False)


def line_of(text: str, part: str) -> int:
    """Return the number of the only line that contains a part."""
    numbers = [n for n, line in enumerate(text.splitlines(), start=1) if part in line]
    assert len(numbers) == 1, (part, numbers)
    return numbers[0]
