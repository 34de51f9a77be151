"""Reads YAML as it is written: no tag, no key twice, no word or number that YAML 1.1 would change.

Only `true`, `false`, `null`, `~`, nothing, and decimal numbers without leading zeros are more than
text, so `on`, `NO`, 2013-01-01, 010 and 12:30 stay what they are. libyaml gives one event after the
other, so neither nesting nor an alias of aliases costs more than the file is long. Not here: what
the fields mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from retrain_assets.specs.base import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Loc = tuple[str | int, ...]
_MAX_BYTES, _MAX_DEPTH, _MAX_NODES = 2**20, 40, 50_000
_SAID_CHARACTERS, _SECRET_CHARACTERS = 300, 4
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(
    r"[-+]?(?:(?:0|[1-9][0-9]{0,99})(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?"
)
# As they stand anywhere in a file, comments included.
_SECRETS = {
    "a password within a URL": re.compile(r"://[^/\s'\":@]{0,99}:(?!\{\{)[^/\s'\"@]{1,999}@"),
    "a token of Slack": re.compile(r"\bx(?:ox[a-z]|app)-[A-Za-z0-9-]{8,}|hooks\.slack\.com/serv"),
    "a key of AWS": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a token of GitHub": re.compile(r"\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    "a signed URL": re.compile(r"(?i)[?&](?:sig|x-amz-signature|token|password)=[^&\s]+"),
}


@dataclass(frozen=True)
class Document:
    """One document of a YAML file.

    Args:
        file: Its folder and name, as messages give them.
        value: What it holds.
        lines: Where each key and item stands, counted from 1; the parts of an alias do not.
        variables: What was put in from the environment, by name; no message shows it.
    """

    file: str
    value: Mapping[str, Any]
    lines: Mapping[Loc, int]
    variables: Mapping[str, str] = field(default_factory=dict)

    def refusal(self, *reasons: tuple[Loc, str]) -> SpecError:
        """An error of one line a reason, in the order of the file."""
        said = [(self.line(loc), loc, self._hidden(why)) for loc, why in reasons]
        placed = sorted(said, key=lambda reason: reason[0])
        return SpecError("\n".join(_said(self.file, *reason) for reason in placed))

    def line(self, loc: Loc) -> int:
        """Where a part of it stands, or the part it would be in."""
        around = (loc[:end] for end in range(len(loc), -1, -1))
        return next((self.lines[part] for part in around if part in self.lines), 1)

    def _hidden(self, text: str) -> str:
        """A text without what variables hold, whole, escaped, or word by word."""
        for name, held in self.variables.items():
            words = re.findall(r"\w{4,}", held)
            for form in filter(None, (held, repr(held)[1:-1], repr(held + '"')[1:-2], *words)):
                edge = "" if len(form) >= _SECRET_CHARACTERS else r"\b"
                pattern = f"{edge}{re.escape(form)}{edge}"
                text = re.sub(pattern, f"{{{{ env.{name} }}}}", text)
        return text


def secret_in(text: str) -> tuple[str, int] | None:
    """What kind of secret a text holds, if one can be told, and at which character."""
    found = (
        (kind, match.start()) for kind, form in _SECRETS.items() if (match := form.search(text))
    )
    return next(found, None)


def load_strictly(path: Path) -> tuple[Document, ...]:
    """All documents of a YAML file, in its order.

    Raises:
        SpecError: It is no such file, is empty or large, holds a secret, or is not to be read
            in one way only.
    """
    file = f"{path.parent.name}/{path.name}"
    content = path.read_bytes()
    if len(content) > _MAX_BYTES:
        raise SpecError(f"{file}: has {len(content):,} bytes: {_MAX_BYTES:,} are the most")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SpecError(f"{file}: line {line}: is not UTF-8: save it as that") from error
    return _documents(file, text)


@lru_cache(maxsize=64)
def _documents(file: str, text: str) -> tuple[Document, ...]:
    if found := secret_in(text):
        kind, place = found
        line = text.count("\n", 0, place) + 1
        raise SpecError(
            f"{file}: line {line}: holds what looks like {kind}: take it out, make it "
            "invalid where it came from, and leave secrets to the environment"
        )
    try:
        documents = tuple(_Reader(file, text).documents())
    except yaml.reader.ReaderError as error:
        line = text.encode()[: error.position].count(b"\n") + 1
        raise SpecError(f"{file}: line {line}: {error.reason}: take the character out") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise SpecError(
            f"{file}: line {line}: {error.problem}: indent with spaces, close what is opened, and "
            "put text with special characters in quotes"
        ) from error
    if not documents:
        raise SpecError(f"{file}: line 1: is empty: write `type:` and `attributes:`, or delete it")
    return documents


class _Reader:
    """One pass over the events of a file."""

    def __init__(self, file: str, text: str) -> None:
        self.file, self.events = file, yaml.parse(text, Loader=yaml.CSafeLoader)
        self.lines: dict[Loc, int] = {}
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.nodes = 0

    def documents(self) -> Iterator[Document]:
        number = 0
        for event in self.events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            number, self.nodes, self.lines, self.anchors = number + 1, 0, {}, {}
            root = next(self.events)
            value = self._value(root, ())
            if not isinstance(value, dict):
                self._refuse(
                    root,
                    f"document {number} is {_kind(value)}: write a mapping with `type:` and "
                    "`attributes:`",
                )
            yield Document(self.file, value, self.lines)

    def _value(self, event: Any, loc: Loc) -> Any:
        before, self.nodes = self.nodes, self.nodes + 1
        if len(loc) > _MAX_DEPTH:
            self._refuse(event, f"nested deeper than {_MAX_DEPTH} levels: write it flatter")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                self._refuse(event, f"*{event.anchor} names no finished anchor: write it out")
            value, size = self.anchors[event.anchor]
            self.nodes += size
        else:
            value = self._own(event, loc)
        if self.nodes > _MAX_NODES:
            self._refuse(event, f"its aliases stand for more than {_MAX_NODES:,} values: use fewer")
        if not isinstance(event, yaml.AliasEvent) and event.anchor is not None:
            self.anchors[event.anchor] = value, self.nodes - before
        return value

    def _own(self, event: Any, loc: Loc) -> Any:
        if event.tag is not None:
            self._refuse(event, f"the tag {event.tag!r} is not supported: leave it out")
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event.value) if event.implicit[0] else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(loc)
        return self._mapping(loc)

    def _list(self, loc: Loc) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            at = (*loc, len(items))
            self.lines[at] = _line(event)
            items.append(self._value(event, at))
        return items

    def _mapping(self, loc: Loc) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._value(event, loc) if isinstance(event, yaml.ScalarEvent) else None
            if not isinstance(key, str):
                written = getattr(event, "value", "that is a collection")
                self._refuse(event, f"the key {written!r} is not text: put it in quotes", loc)
            if key in items:
                first = self.lines[*loc, key]
                self._refuse(event, f"{key!r} stands twice, first on line {first}: keep one", loc)
            self.lines[*loc, key] = _line(event)
            items[key] = self._value(next(self.events), (*loc, key))
        return items

    def _refuse(self, event: Any, why: str, loc: Loc = ()) -> NoReturn:
        raise SpecError(_said(self.file, _line(event), loc, why))


def _scalar(text: str) -> Any:
    """A plain scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _kind(value: object) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"


def _said(file: str, line: int, loc: Loc, why: str) -> str:
    path = _legible(".".join(str(part) for part in loc))
    said = f"{path}: {_legible(why)}" if path else _legible(why)
    return f"{file}: line {line}: {said}"


def _legible(text: str) -> str:
    """A text in one line of printable characters, without its middle where it is long."""
    half = _SAID_CHARACTERS // 2
    cut = f"{text[:half]} … {text[-half:]}" if len(text) > _SAID_CHARACTERS else text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in cut)
