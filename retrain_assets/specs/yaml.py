"""Read YAML files strictly, make specs of them, and name the line and field of every mistake.

Only `true`, `false`, `null`, `~`, nothing, and decimal numbers without leading zeros are more than
text, so `on`, `NO`, 2013-01-01, 010 and 12:30 stay as they are written. `{{ env.NAME }}` may stand
within any text, for settings that differ from place to place; no message shows such a value.
Not here: what the fields mean, and the environment itself.
"""

import re
from codecs import BOM_UTF8
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from retrain_assets.specs.base import SpecError, hint

Loc = tuple[str | int, ...]
SpecT = TypeVar("SpecT", bound=BaseModel)
ROOT = "attributes"
_PERCENT = 100
_MAX_BYTES, _MAX_DEPTH, _MAX_VALUES, _MAX_MESSAGE = 2**20, 40, 50_000, 300
_SHORT = 4  # shorter values of variables are masked as words only
_LEAKED = "take it out, make it invalid where it came from, and leave secrets to the environment"
_SYNTAX = "indent with spaces, close what is opened, and put text with special characters in quotes"
_MENDING = {
    "expected ',' or": "put a comma between two entries, and close the bracket that opens here",
    "expected ':'": "write `name: value`, with a colon and a space",
    "mapping values are not allowed": (
        "put text that has a colon in quotes, write `name: value` where this line lacks a colon, "
        "and see if the line before lacks a colon"
    ),
    "expected '-'": "begin each entry of the list with a dash, or indent this line less",
    "expected key": "indent the entries of a mapping alike",
    "end of stream": "close the quote that opens here",
    "any token": "indent with spaces, and put text that begins with a special character in quotes",
}
_NOTICED_LATE = ("expected ',' or", "expected ':'", "end of stream")
_SHOWN = "fields are shown in metadata, so leave secrets to the library that needs them"
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]{0,99}|(?=\.[0-9]))(\.[0-9]*)?([eE][-+]?[0-9]{1,3})?")
_REFERENCE = re.compile(r"\{\{\s*env\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
# These are looked for in the whole text of a file, comments included.
_SECRETS = {
    "a password within a URL": re.compile(r"://[^/\s'\":@]{0,99}:(?!\{\{)[^/\s'\"@]{1,999}@"),
    "a token of Slack": re.compile(r"\bx(?:ox[a-z]|app)-[A-Za-z0-9-]{8,}|hooks\.slack\.com/serv"),
    "a key of AWS": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a token of GitHub": re.compile(r"\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    "a signed URL": re.compile(r"(?i)[?&](?:sig|x-amz-signature|token|password)=[^&\s]+"),
}
_SYNONYMS = {
    **dict.fromkeys(("number", "double", "real", "decimal", "float64", "numeric"), "float"),
    **dict.fromkeys(("integer", "int64", "int32", "bigint", "long"), "int"),
    **dict.fromkeys(("string", "str", "object", "varchar", "char"), "text"),
    **dict.fromkeys(("timestamp", "time"), "datetime"),
    **dict.fromkeys(("boolean", "logical"), "bool"),
    **dict.fromkeys(("enum", "factor", "categorical"), "category"),
}
_REMEDIES = {
    "string_type": "put it in quotes",
    "bool_type": "write true or false",
    "int_type": "write a whole number, such as 10",
    "float_type": "write a number, such as 10 or 0.5",
    "list_type": "write a list, such as [a, b]",
    "dict_type": "write a mapping of names to values",
    "model_type": "write a mapping of its fields",
}


@dataclass(frozen=True)
class Document:
    """One document of a YAML file.

    Args:
        file: Its folder and name, as messages show them.
        value: The values of the document.
        lines: The line of each key and item, counted from 1. Parts of an alias have none.
        variables: The values inserted from the environment, by the name of the variable.
    """

    file: str
    value: Mapping[str, Any]
    lines: Mapping[Loc, int]
    variables: Mapping[str, str] = field(default_factory=dict)

    def refusal(self, *reasons: tuple[Loc, str]) -> SpecError:
        """Return an error with one line for each reason, in the order of the file."""
        messages = (
            _message(self.file, self.line(loc), loc, self._mask(reason))
            for loc, reason in sorted(reasons, key=lambda item: self.line(item[0]))
        )
        return SpecError("\n".join(messages))

    def line(self, loc: Loc) -> int:
        """Return the line of a part, or of the innermost part around it that has a line."""
        around = (loc[:end] for end in range(len(loc), -1, -1))
        return next((self.lines[part] for part in around if part in self.lines), 1)

    def _mask(self, text: str) -> str:
        """Return the text without values of variables, be they whole, escaped, or single words."""
        for name, value in self.variables.items():
            words = re.findall(r"\w{4,}", value)
            for form in filter(None, (value, repr(value)[1:-1], repr(value + '"')[1:-2], *words)):
                edge = r"\b" * (len(form) < _SHORT)
                text = re.sub(f"{edge}{re.escape(form)}{edge}", f"{{{{ env.{name} }}}}", text)
        return text


def find_secret(text: str) -> tuple[str, int] | None:
    """Return which kind of secret a text seems to hold and at which character, or None."""
    matches = ((kind, pattern.search(text)) for kind, pattern in _SECRETS.items())
    return next(((kind, match.start()) for kind, match in matches if match), None)


def load_strictly(path: Path) -> tuple[Document, ...]:
    """Return all documents of a YAML file, in its order.

    Raises:
        SpecError: The file is not sound YAML, is empty or too large, or holds a secret.
    """
    here, place = Path.cwd(), path.absolute()
    file = f"{place.parent.name}/{place.name}"
    if place.is_relative_to(here):
        file = place.relative_to(here).as_posix()
    content = path.read_bytes().removeprefix(BOM_UTF8)
    if len(content) > _MAX_BYTES:
        raise SpecError(f"{file}: has {len(content):,} bytes: {_MAX_BYTES:,} are the most")
    try:
        return _documents(file, content.decode())
    except UnicodeDecodeError as error:
        line, reason = content.count(b"\n", 0, error.start), "is not UTF-8: save it as that"
    except yaml.reader.ReaderError as error:
        line = content.count(b"\n", 0, error.position)
        reason = f"{error.reason}: take the character out"
    except yaml.MarkedYAMLError as error:
        line, reason = _explain_syntax(error)
    raise SpecError(_message(file, line + 1, (), reason))


def _explain_syntax(error: yaml.MarkedYAMLError) -> tuple[int, str]:
    """Return the line, counted from 0, in which to look for a mistake, and what would do."""
    problem = error.problem or ""
    remedy = next((text for words, text in _MENDING.items() if words in problem), _SYNTAX)
    # What is not closed, or has no colon, is noticed only at the next line.
    is_noticed_late = any(words in problem for words in _NOTICED_LATE)
    mark = (error.context_mark if is_noticed_late else None) or error.problem_mark
    return getattr(mark, "line", 0), f"{problem}: {remedy}"


@lru_cache(maxsize=64)
def _documents(file: str, text: str) -> tuple[Document, ...]:
    if secret := find_secret(text):
        reason = f"holds what looks like {secret[0]}: {_LEAKED}"
        raise SpecError(_message(file, text.count("\n", 0, secret[1]) + 1, (), reason))
    documents: list[Document] = []
    events = yaml.parse(text, Loader=yaml.CSafeLoader)
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            documents.append(_Reader(file, events).document(len(documents) + 1))
    if not documents:
        raise SpecError(f"{file}: line 1: is empty: write `type:` and `attributes:`, or delete it")
    return tuple(documents)


class _Reader:
    """Reads one document, event by event, so that the costs are bounded by its length."""

    def __init__(self, file: str, events: Iterator[Any]) -> None:
        self.file, self.events, self.size = file, events, 0
        self.lines: dict[Loc, int] = {}
        self.anchors: dict[str, tuple[Any, int]] = {}

    def document(self, number: int) -> Document:
        root = next(self.events)
        value = self._value(root, ())
        if not isinstance(value, dict):
            kind = "empty" if value is None else f"a {type(value).__name__}"
            reason = f"document {number} is {kind}: write a mapping with `type:` and `attributes:`"
            self._refuse(root, (), reason)
        return Document(self.file, value, self.lines)

    def _value(self, event: Any, loc: Loc) -> Any:
        before, self.size = self.size, self.size + 1
        if len(loc) > _MAX_DEPTH:
            self._refuse(event, (), f"nested deeper than {_MAX_DEPTH} levels: write it flatter")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                name = event.anchor
                why = f"*{name} refers to &{name}, which is not written above it: write the value"
                self._refuse(event, (), why)
            value, size = self.anchors[event.anchor]
            self.size += size
        elif event.tag is not None:
            self._refuse(event, (), f"the tag {event.tag!r} is not supported: leave it out")
        elif isinstance(event, yaml.ScalarEvent):
            value = _plain(event.value) if event.implicit[0] else event.value
        else:
            value = self._items(isinstance(event, yaml.MappingStartEvent), loc)
        if self.size > _MAX_VALUES:
            reason = f"its aliases stand for more than {_MAX_VALUES:,} values: use fewer"
            self._refuse(event, (), reason)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, self.size - before
        return value

    def _items(self, is_mapping: bool, loc: Loc) -> dict[str, Any] | list[Any]:
        items: dict[Any, Any] = {}
        while not isinstance(event := next(self.events), yaml.CollectionEndEvent):
            key = self._key(event, loc, items) if is_mapping else len(items)
            self.lines[*loc, key] = event.start_mark.line + 1
            items[key] = self._value(next(self.events) if is_mapping else event, (*loc, key))
        return items if is_mapping else list(items.values())

    def _key(self, event: Any, loc: Loc, items: Mapping[str, Any]) -> str:
        key = self._value(event, loc)
        if not isinstance(key, str):
            self._refuse(event, loc, f"the key {key!r} is not text: put it in quotes")
        if key in items:
            first = self.lines[*loc, key]
            self._refuse(event, loc, f"{key!r} stands twice, first on line {first}: keep one")
        return key

    def _refuse(self, event: Any, loc: Loc, reason: str) -> NoReturn:
        raise SpecError(_message(self.file, event.start_mark.line + 1, loc, reason))


def _plain(text: str) -> Any:
    """Return what a text without quotes stands for."""
    if _NUMBER.fullmatch(text):
        return int(text) if text.strip("+-").isdigit() else float(text)
    return _WORDS.get(text, text)


def _message(file: str, line: int, loc: Loc, reason: str) -> str:
    """Return one printable line, in which the middle of a very long part is left out."""
    half = _MAX_MESSAGE // 2
    parts = [part for part in (".".join(str(key) for key in loc), reason) if part]
    short = (p if len(p) <= _MAX_MESSAGE else f"{p[:half]} … {p[-half:]}" for p in parts)
    text = ": ".join([file, f"line {line}", *short])
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def resolve(document: Document, environment: Mapping[str, str]) -> Document:
    """Return a document with the values of the variables that it refers to.

    Raises:
        SpecError: A variable is not set or makes a secret, or another template is used.
    """
    variables: dict[str, str] = {}
    reasons: list[tuple[Loc, str]] = []

    def insert(value: Any, loc: Loc) -> Any:
        if isinstance(value, dict):
            return {key: insert(item, (*loc, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [insert(item, (*loc, number)) for number, item in enumerate(value)]
        if not isinstance(value, str) or "{{" not in value:
            return value
        names = _REFERENCE.findall(value)
        variables.update((name, environment.get(name, "")) for name in names)
        text = _REFERENCE.sub(lambda match: variables[match[1]], value)
        if "{{" in _REFERENCE.sub("", value):
            reasons.append((loc, f"cannot resolve {value!r}: only {{{{ env.NAME }}}} is supported"))
        elif unset := " and ".join(name for name in names if name not in environment):
            reasons.append((loc, f"{unset} not set in the environment: set it for Dagster"))
        elif secret := find_secret(text):
            reasons.append((loc, f"{' and '.join(names)} makes it {secret[0]}: {_SHOWN}"))
        return text

    attributes = insert(document.value.get(ROOT) or {}, (ROOT,))
    if reasons:
        raise document.refusal(*reasons)
    return replace(document, value={**document.value, ROOT: attributes}, variables=variables)


def parse_spec(document: Document, spec_class: type[SpecT], below: Loc = (ROOT,)) -> SpecT:
    """Return the spec that a document makes, whose references have been resolved.

    Args:
        document: The document.
        spec_class: The class of the spec.
        below: The part of the document that is meant: `attributes`, or () for all of it.

    Raises:
        SpecError: The document does not fit; there is a line for each mistake.
    """
    try:
        return spec_class.model_validate(document.value[ROOT] if below else document.value)
    except ValidationError as error:
        details = error.errors(include_url=False)
    schema = spec_class.model_json_schema()
    # A newer version may have fields that are not known here, which is no mistake of the YAML.
    details = [item for item in details if item["loc"] == ("spec_version",)] or details
    meant = _choose_alternatives(details, document.value[ROOT] if below else document.value)
    raise document.refusal(*(_reason(detail, schema, below, document) for detail in meant))


def _choose_alternatives(details: Sequence[ErrorDetails], value: Any) -> Iterator[ErrorDetails]:
    """Yield of a field that may be one thing or another the mistake of what was meant."""
    paths = [tuple(_fields(detail, value)) for detail in details]

    def rank(number: int) -> tuple[int, int, int]:
        kind, is_text = details[number]["type"], isinstance(details[number]["input"], str)
        misfit = 1 if is_text else 3
        order = misfit if kind == "literal_error" else 2 * kind.endswith("_type")
        return -len(paths[number]), order, number

    for number, path in enumerate(paths):
        rivals = [at for at, deeper in enumerate(paths) if deeper[: len(path)] == path]
        if number == min(rivals, key=rank):
            yield details[number]


def _reason(
    detail: ErrorDetails, schema: dict[str, Any], below: Loc, document: Document
) -> tuple[Loc, str]:
    """Return where a mistake is, and what is wrong, what is written, and what would do."""
    loc = tuple(_fields(detail, document.value[ROOT] if below else document.value))
    kind, written, rules = detail["type"], detail["input"], _rules(schema, loc)
    if kind in ("less_than", "less_than_equal") and _is_percentage(written, detail):
        rules = {"description": f"write {written / 100:g}"}
    reason = f"{detail['msg'][0].lower()}{detail['msg'][1:]}, found {written!r}: "
    reason += _REMEDIES.get(kind, rules.get("description", ""))
    if kind == "extra_forbidden":
        reason = f"unknown field{hint(loc[-1], _rules(schema, loc[:-1]).get('properties', ()))}"
    elif kind == "missing":
        reason = f"is needed: {rules.get('description', '')}"
    elif kind == "literal_error":
        options = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        synonym = _SYNONYMS.get(str(written).casefold())
        meant = f": did you mean {synonym}?" if synonym in options else hint(written, options)
        reason = f"cannot be {written!r}{meant}"
    elif kind == "value_error":
        # A reason that concerns several fields begins with the path of the one to change.
        reason = str(detail["ctx"]["error"])
        field, colon, rest = reason.partition(": ")
        deeper = (*below, *loc, *field.split("."))
        if colon and deeper in document.lines:
            return deeper, rest
    return (*below, *loc), reason


def _is_percentage(written: Any, detail: ErrorDetails) -> bool:
    """Tell if a share was probably written in percent."""
    most = detail["ctx"].get("lt", detail["ctx"].get("le"))
    return isinstance(written, int | float) and most == 1 and 1 < int(written) <= _PERCENT


def _fields(detail: ErrorDetails, value: Any) -> Iterator[str | int]:
    """Yield the path of a mistake in the document, without pydantic's names of alternatives."""
    for part in detail["loc"]:
        is_index = isinstance(part, int) and isinstance(value, list)
        if is_index or (isinstance(value, dict) and part in value):
            value = value[part]
            yield part
        elif detail["type"] == "missing" and part == detail["loc"][-1]:
            yield part


def _rules(schema: dict[str, Any], loc: Loc) -> Mapping[str, Any]:
    """Return what the JSON schema says about a field: its alternatives, and what these refer to."""
    field: Mapping[str, Any] = schema
    for key in loc:
        items = field.get("items" if isinstance(key, int) else "additionalProperties")
        inner = field.get("properties", {}).get(key, items)
        options = [inner, *inner.get("anyOf", ())] if isinstance(inner, dict) else []
        names = [option["$ref"].rpartition("/")[2] for option in options if "$ref" in option]
        field = ChainMap({}, *options, *(schema["$defs"][name] for name in names))
    return field
