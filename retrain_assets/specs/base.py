"""What all parts of the YAML share: strictness, names, durations, and hints for refusals.

Not here: reading YAML files, defaults that depend on the machine, and the fields of any dataset or
model.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from difflib import get_close_matches
from inspect import cleandoc
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

_DURATION = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MOST_NAMES = 12
_DESCRIPTION = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)
_ADDRESS = r"[A-Za-z0-9_.+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+"


def duration(text: str) -> timedelta:
    """Return `3h` as a timedelta; the units are s, m, h and d.

    Raises:
        ValueError: The text is not a whole number of up to six digits followed by a unit.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration: write 90m, 3h or 2d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def number_of(count: int, noun: str) -> str:
    """Return a number with its noun, such as `1 row` or `1,200 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shorten(text: str, most: int) -> str:
    """Return a text of at most so many characters, whose end shows if some are left out."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _check_duration(text: str) -> str:
    duration(text)
    return text


SPEC_VERSION = 1  # of the YAML; a field that changes its meaning or spelling raises it
Mistakes = Iterator[str]
Duration = Annotated[str, AfterValidator(_check_duration)]
Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z][a-z0-9_]*$",
        max_length=63,
        description="Lower-case letters, digits and underscores, starting with a letter.",
    ),
]
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


class Spec(
    BaseModel,
    extra="forbid",
    frozen=True,
    strict=True,
    allow_inf_nan=False,
    serialize_by_alias=True,
):
    """A part of the YAML, which cannot change and refuses unknown keys, NaN and text as numbers.

    The descriptions of its fields are the `Args:` of its docstring.
    """

    def _find_mistakes(self) -> Mistakes:
        """Yield what is wrong with fields that are right by themselves; the first is reported.

        A reason that begins with the path of a field and a colon is reported at that field.
        """
        yield from ()

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        if why := next(self._find_mistakes(), None):
            raise ValueError(why)
        return self

    def chooses(self, name: str) -> bool:
        """Return whether the YAML names a field.

        A stored spec names all fields, also those with a default, and those that are null.
        """
        is_stored = any(getattr(self, field) is None for field in self.model_fields_set)
        default = type(self).model_fields[name].default
        return name in self.model_fields_set and not (is_stored and getattr(self, name) == default)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return the schema with the descriptions of the class and its fields."""
        schema = handler(core_schema)
        part = handler.resolve_ref_schema(schema)
        bases = (base for base in cls.__mro__ if issubclass(base, Spec))
        docstrings = [cleandoc(base.__doc__ or "") for base in bases]
        part["description"] = docstrings[0].partition("\n\nArgs:")[0]
        texts = dict(_DESCRIPTION.findall("\n".join(docstrings)))
        for name, field in part.get("properties", {}).items():
            field["description"] = " ".join(texts[name].split())
        return schema


class NamedSpec(Spec):
    """The attributes that both components have.

    Args:
        spec_version: Version of the YAML's fields; 1 is the only one so far.
        name: Group and first part of the asset keys.
        owners: Owners of the assets, which Dagster shows.
    """

    # Left out if it is not set, so that stored specs are as before it existed.
    spec_version: int = Field(1, ge=1, exclude_if=lambda value: value == 1)
    name: Name
    owners: list[Owner] = Field([])

    @field_validator("spec_version")
    @classmethod
    def _refuse_newer(cls, value: int) -> int:
        if value > SPEC_VERSION:
            raise ValueError(
                f"this package reads versions up to {SPEC_VERSION}: install a newer retrain-assets"
            )
        return value


class SpecError(ValueError):
    """A mistake in a YAML file; the message names the file, the line, the field and a remedy."""


def hint(name: object, names: Iterable[str]) -> str:
    """Return the end of a refusal: the names that are close to this one, or else all names."""
    names = sorted(names)
    if near := get_close_matches(str(name), names, n=3):
        return f": did you mean {' or '.join(near)}?"
    more = ", …" if len(names) > _MOST_NAMES else ""
    return f"; there are {', '.join(names[:_MOST_NAMES]) or 'none'}{more}"
