"""What every part of the YAML shares: strictness, names, durations, and the words of a refusal.

Not here: reading YAML, defaults that depend on the machine, and anything that reads a dataset or
a model.
"""

from __future__ import annotations

import re
from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

_DURATION = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LISTED = 12

Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z][a-z0-9_]*$",
        max_length=63,
        description="Lower-case letters, digits and underscores, starting with a letter.",
    ),
]
_ADDRESS = r"[A-Za-z0-9_.+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+"
Address = Annotated[
    str,
    Field(
        pattern=f"^{_ADDRESS}$",
        max_length=254,
        description="An e-mail address, such as ml@example.org.",
    ),
]
Owner = Annotated[
    str,
    Field(
        pattern=rf"^(team:[\w.-]+|{_ADDRESS})$",
        max_length=254,
        description="An e-mail address, or a team such as team:ml.",
    ),
]


class Spec(BaseModel):
    """A part of the YAML: immutable, refusing keys it does not know, NaN, and text for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The schema that `dg check` holds the YAML against, before references are resolved."""
        schema = handler(core_schema)
        for field in handler.resolve_ref_schema(schema).get("properties", {}).values():
            for option in (field, field.get("items", {}), *field.get("anyOf", ())):
                if "pattern" in option:
                    option["pattern"] += r"|\{\{"
        return schema


class NamedSpec(Spec):
    """What a component is made from."""

    name: Name = Field(
        description="Group and first part of the asset keys: lower-case letters, digits and "
        "underscores, starting with a letter."
    )
    owners: list[Owner] = Field([], description="Owners shown in Dagster.")


class SpecError(ValueError):
    """A mistake in a YAML file; the message names file, line, field and what would do."""


def hint(name: object, known: Iterable[str]) -> str:
    """`: did you mean …` where a known name is close, else what there is; to follow a refusal."""
    names = sorted(known)
    if near := get_close_matches(str(name), names, n=3):
        return f": did you mean {' or '.join(near)}?"
    more = ", …" if len(names) > _LISTED else ""
    return f"; there are {', '.join(names[:_LISTED])}{more}" if names else "; there are none"


def duration(text: str) -> timedelta:
    """`3h` as a timedelta; units are s, m, h, d.

    Raises:
        ValueError: The text is not a whole number of up to six digits followed by a unit.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration: write 90m, 3h or 2d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _checked(text: str) -> str:
    duration(text)
    return text


Duration = Annotated[str, AfterValidator(_checked)]
