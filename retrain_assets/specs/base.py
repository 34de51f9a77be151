"""What every part of the YAML shares: strictness, names, and a loader that guesses nothing.

Not here: defaults that depend on the machine, and anything that reads a dataset or a model.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from pathlib import Path

_DURATION = re.compile(r"^(\d+)([smhd])$")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z][a-z0-9_]*$",
        max_length=63,
        description="Lower-case letters, digits and underscores, starting with a letter.",
    ),
]


class Spec(BaseModel):
    """A part of the YAML: immutable, and refusing keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SpecError(ValueError):
    """A mistake in a YAML file; the message names file, line and what would do."""


def duration(text: str) -> timedelta:
    """`3h` as a timedelta; units are s, m, h, d.

    Raises:
        ValueError: The text is not a whole number followed by a unit.
    """
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration: write 90m, 3h or 2d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


class _StrictLoader(yaml.CSafeLoader):
    """YAML 1.2 booleans only (`on`, `no` stay text), dates stay text, a key twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key!r} is not text: put it in quotes",
                    key_node.start_mark,
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice: keep one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_BOOL, _TIMESTAMP = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _TIMESTAMP)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(_BOOL, re.compile("^(?:true|false)$"), list("tf"))


def load_strictly(path: Path) -> list[dict[str, Any]]:
    """Read all documents of a YAML file.

    Args:
        path: The file, with documents split by `---`.

    Returns:
        One mapping a document, in file order.

    Raises:
        SpecError: A key stands twice or is not text, or a document is not a mapping.
    """
    try:
        documents = list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=_StrictLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "unknown line"
        raise SpecError(f"{path.name}: {where}: {getattr(error, 'problem', error)}") from error
    for number, document in enumerate(documents, start=1):
        if not isinstance(document, dict):
            found = type(document).__name__
            raise SpecError(
                f"{path.name}: document {number} is a {found}: "
                "write a mapping with `type:` and `attributes:`"
            )
    return documents
