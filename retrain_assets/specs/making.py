"""A spec from a document of YAML: references to the environment resolved, mistakes told by line.

`{{ env.NAME }}` may stand within any text and is for settings that differ from place to place. A
message names the variable and never its value. Not here: the environment itself, and what the
fields mean.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from retrain_assets.specs.base import hint
from retrain_assets.specs.reading import secret_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

    from retrain_assets.specs.reading import Document, Loc

SpecT = TypeVar("SpecT", bound=BaseModel)
ROOT = "attributes"
_REFERENCE = re.compile(r"\{\{\s*env\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_QUOTED = re.compile(r"'([^']*)'")
_REMEDIES = {
    "string_type": "put it in quotes",
    "bool_type": "write true or false",
    "int_type": "write a whole number, such as 10",
    "float_type": "write a number, such as 10 or 0.5",
    "list_type": "write a list, such as [a, b]",
    "dict_type": "write a mapping of names to values",
    "model_type": "write a mapping of its fields",
}


def resolved(document: Document, environment: Mapping[str, str]) -> Document:
    """A document with what its references stand for.

    Raises:
        SpecError: A variable is not set, makes a secret, or something else is to be resolved.
    """
    used: dict[str, str] = {}
    refused: list[tuple[Loc, str]] = []

    def walk(value: Any, loc: Loc) -> Any:
        if isinstance(value, dict):
            return {key: walk(item, (*loc, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*loc, place)) for place, item in enumerate(value)]
        if not isinstance(value, str) or "{{" not in value:
            return value
        held = {name: environment.get(name) for name in _REFERENCE.findall(value)}
        text = _REFERENCE.sub(lambda found: held[found[1]] or "", value)
        used.update((name, known) for name, known in held.items() if known is not None)
        if (why := _unresolved(value, held, text)) is not None:
            refused.append((loc, why))
        return text

    value = {**document.value, ROOT: walk(document.value.get(ROOT) or {}, (ROOT,))}
    if refused:
        raise document.refusal(*refused)
    return replace(document, value=value, variables=used)


def _unresolved(written: str, held: Mapping[str, str | None], text: str) -> str | None:
    """Why references cannot be resolved; None where they can."""
    unset = [name for name, known in held.items() if known is None]
    if "{{" in _REFERENCE.sub("", written):
        return f"cannot resolve {written!r}: only {{{{ env.NAME }}}} is supported"
    if unset:
        return f"{' and '.join(unset)} not set in the environment: set it for Dagster"
    if found := secret_in(text):
        return (
            f"{' and '.join(held)} makes it {found[0]}: fields are shown in metadata, so leave "
            "secrets to the library that needs them"
        )
    return None


def spec_of(document: Document, spec_class: type[SpecT], below: Loc = (ROOT,)) -> SpecT:
    """The spec that a document makes, its references being resolved.

    Args:
        document: The document.
        spec_class: What to make of it.
        below: The part of the document that is meant.

    Raises:
        SpecError: All that is wrong with it, a line each.
    """
    try:
        return spec_class.model_validate(document.value[ROOT] if below else document.value)
    except ValidationError as error:
        details = error.errors(include_url=False)
    schema = spec_class.model_json_schema()
    raise document.refusal(*(_placed(detail, schema, below, document) for detail in details))


def _placed(
    detail: ErrorDetails, schema: dict[str, Any], below: Loc, document: Document
) -> tuple[Loc, str]:
    """A mistake, and the field it is of."""
    loc = tuple(part for part in detail["loc"] if part != "[key]")
    why = _why(detail, schema, loc)
    # What is told of several fields begins with the path of the one to change.
    field, colon, rest = why.partition(": ")
    deeper = (*below, *loc, *field.split("."))
    return (deeper, rest) if colon and deeper in document.lines else ((*below, *loc), why)


def _why(detail: ErrorDetails, schema: dict[str, Any], loc: Loc) -> str:
    """What is wrong, what was found, what would do."""
    kind, context, found = detail["type"], detail.get("ctx", {}), detail["input"]
    described = _part(schema, loc).get("description", "")
    if kind == "extra_forbidden":
        return f"unknown field{hint(loc[-1], _part(schema, loc[:-1]).get('properties', ()))}"
    if kind == "missing":
        return f"is needed: {described}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"cannot be {found!r}{hint(found, re.findall(_QUOTED, context['expected']))}"
    said = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{said}, found {found!r}: {_REMEDIES.get(kind, described)}"


def _part(schema: dict[str, Any], loc: Loc) -> dict[str, Any]:
    """What the JSON schema says of a field; nothing where it says nothing."""
    found = schema
    for part in loc:
        inner = _followed(found, schema)
        rest = inner.get("items") if isinstance(part, int) else inner.get("additionalProperties")
        found = inner.get("properties", {}).get(part, rest)
        if not isinstance(found, dict):
            return {}
    return {**_followed(found, schema), **found}


def _followed(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The definition that a part refers to, itself or as one of its alternatives."""
    for option in (part, *part.get("anyOf", ())):
        if "$ref" in option:
            return dict(schema["$defs"][option["$ref"].rpartition("/")[2]])
        if option.get("type") in ("object", "array"):
            return dict(option)
    return part
