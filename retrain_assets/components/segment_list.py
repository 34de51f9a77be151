"""The list of segments of `for_each: {top: …}`, a file beside the YAML that belongs to the project.

Definitions load without reading data, so which values have most rows is listed by a command. Not
here: counting rows.
"""

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from retrain_assets.specs.base import SpecError
from retrain_assets.specs.model import ModelSpec
from retrain_assets.specs.segments import ForEachSpec
from retrain_assets.stores.place import Folder

FILE = "segments.json"
_LISTS = TypeAdapter(dict[str, list[str]])


def read_lists(folder: Path) -> dict[str, list[str]]:
    """Return the listed values by model.

    Raises:
        SpecError: The file cannot be read.
    """
    path = folder / FILE
    try:
        return _LISTS.validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        why = "is not a list of values by model: delete it and run `retrain segments`"
        raise SpecError(f"{path}: {why}: {_explain(error)}") from None


def _explain(error: Exception) -> str:
    """Return what is wrong, in one line, and at which place of the list."""
    if not isinstance(error, ValidationError):
        return str(error)
    detail = error.errors(include_url=False)[0]
    place = "".join(f"{part}: " for part in detail["loc"])
    return place + detail["msg"].removeprefix("Value error, ")


def complete(spec: ModelSpec, folder: Path) -> ModelSpec:
    """Return a model whose `top` segments are those of the list; without a list it has none.

    Raises:
        SpecError: The list cannot be read, or does not fit the model.
    """
    if spec.for_each is None or spec.for_each.top is None:
        return spec
    values = read_lists(folder).get(spec.name, [])[: spec.for_each.top]
    if not values:
        return spec
    listed = {"column": spec.for_each.column, "min_rows": spec.for_each.min_rows}
    try:
        segmentation = ForEachSpec.model_validate({**listed, "values": values})
        [*segmentation.segments(spec.name, values)]
    except ValueError as error:
        raise SpecError(f"{folder / FILE}: {spec.name}: {_explain(error)}") from None
    return spec.model_copy(update={"for_each": segmentation})


def write_list(folder: Path, model: str, values: list[str]) -> Path:
    """Store the list of a model, beside those of others in the same folder."""
    path, lists = folder / FILE, read_lists(folder) | {model: values}
    text = json.dumps(lists, indent=1, ensure_ascii=False) + "\n"
    Folder(folder).write(FILE, text.encode())  # at once: no definitions load with half a list
    return path
