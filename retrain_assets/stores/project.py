"""The YAML files of a project as text: which components they hold, and how a document is changed.

Comments and the order of the fields stay. Not here: what the fields mean (`specs`), and loading a
project for Dagster (`components`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from retrain_assets.specs.yaml import ROOT, Document, load_strictly
from retrain_assets.stores.place import Folder

KINDS = {"retrain_assets.LandedDataset": "dataset", "retrain_assets.RetrainedModel": "model"}
PARKED = ".renaming"  # end of the name of a file whose component is being renamed


@dataclass(frozen=True)
class Part:
    """A model or dataset in a file.

    Args:
        path: The file; its name ends with `.renaming` if a renaming was interrupted.
        number: The position of its document in the file.
        document: The document.
    """

    path: Path
    number: int
    document: Document

    @property
    def kind(self) -> str:
        """Return `model` or `dataset`."""
        return KINDS[self.document.value["type"]]

    @property
    def attributes(self) -> dict[str, Any]:
        """Return the fields, in which `{{ env.NAME }}` stands as it is written."""
        return self.document.value.get(ROOT) or {}

    @property
    def name(self) -> str:
        """Return the name of the model or dataset."""
        return str(self.attributes.get("name"))

    @property
    def home(self) -> Path:
        """Return the file that Dagster loads, also while it is parked."""
        return self.path.with_name(self.path.name.removesuffix(PARKED))

    def cut(self) -> tuple[str, str]:
        """Return the text of the document, and what remains of the file."""
        documents = split_documents(self.path.read_text(encoding="utf-8"))
        text = documents.pop(self.number)
        return text, "".join(documents)

    def write(self, text: str) -> None:
        """Write the file that Dagster loads, at once; it is deleted if nothing remains."""
        place = Folder(self.home.parent)
        if text.strip():
            place.write(self.home.name, text.encode())
        else:
            place.delete(self.home.name)

    def replace_name(self, text: str, field: str, old: str, new: str) -> str:
        """Return the text of the file with another name in a field.

        Raises:
            ValueError: The name does not stand beside its field.
        """
        lines, place = re.split(r"(?<=\n)", text), self.document.lines[ROOT, field] - 1
        pattern = rf"(\b{field}['\"]?\s*:\s*['\"]?){re.escape(old)}(?![\w-])"
        lines[place], count = re.subn(pattern, rf"\g<1>{new}", lines[place], count=1)
        if not count:
            raise ValueError(f"{self.path}, line {place + 1}: write `{field}: {old}` on one line")
        return "".join(lines)


def list_parts(folder: Path) -> Iterator[Part]:
    """Yield the models and datasets in the YAML files below a folder.

    Raises:
        SpecError: A file cannot be read in one way only.
    """
    for path in sorted([*folder.rglob("defs.y*ml"), *folder.rglob(f"defs.y*ml{PARKED}")]):
        for number, document in enumerate(load_strictly(path)):
            if document.value.get("type") in KINDS:
                yield Part(path, number, document)


def split_documents(text: str) -> list[str]:
    """Return the text of each document of a YAML file; together they are the file."""
    lines, events = re.split(r"(?<=\n)", text), yaml.parse(text, Loader=yaml.CSafeLoader)
    marks = [e.start_mark for e in events if isinstance(e, yaml.DocumentStartEvent)]
    ends = [*(mark.line for mark in marks[1:] if mark), len(lines)]
    return ["".join(lines[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
