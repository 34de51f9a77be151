"""Reader of JSON lines: one object a line, whose values become text.

Not here: whether a value is sound.
"""

import json
import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import BinaryIO

from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.landing import readers


def read_jsonl(
    content: BinaryIO, spec: DatasetSpec, partition: str | None, keep: readers.Keep
) -> readers.Columns:
    """Read the rows of JSON lines, as text; see `READERS`."""
    readers.check_text(content, spec)
    names: dict[str, None] = {}
    columns, line = [*spec.file_columns], 1
    blocks = readers.read_blocks(content, spec.read.encoding)
    for text in chain([next(blocks, "")], blocks):
        start = re.match(r"\s*(\[|\{\s*\n)", text) if line == 1 else None
        if start:
            kind = "array" if start[1] == "[" else "object on several lines"
            raise readers.RefusedFileError(
                f"it begins as a JSON {kind}: write each object on one line"
            )
        rows = readers.as_table(
            _json_records(text, spec, names, line), columns, range(len(columns))
        )
        readers.check_end(rows, text)
        keep(rows)
        line += text.count("\n")
    if not names:
        return readers.Columns((), ())
    positions, extra = readers.columns_of(list(names), spec, partition)
    lacking = (name for name in spec.columns if spec.columns[name].since and name not in positions)
    return readers.Columns(extra, tuple(lacking))


def _json_records(
    text: str, spec: DatasetSpec, names: dict[str, None], first: int
) -> Iterator[readers.Record]:
    """Read the lines that are not blank; `names` gathers the keys of all objects."""
    read, columns = _json_reader(spec), list(spec.file_columns)
    for number, line in enumerate(text.split("\n"), start=first):
        if not line.strip():
            continue
        fields, problem = None, readers.explain_length(line)
        if problem is None:
            try:
                values = read(line)
            except json.JSONDecodeError as error:
                problem = f"it is not JSON: {error.msg} at character {error.pos + 1}"
            except RecursionError:
                problem = "it is nested too deeply"
            except ValueError as error:
                problem = str(error)
            else:
                names.update(dict.fromkeys(values))
                fields = [values.get(name) for name in columns]
        yield number, fields, line.rstrip("\r"), problem


def _json_reader(spec: DatasetSpec) -> Callable[[str], dict[str, str | None]]:
    """Return what reads the object on a line, its columns' values as text, or raises ValueError."""
    columns, rename = spec.file_columns, spec.read.rename

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        renamed = {rename.get(name, name): value for name, value in pairs}
        if len(renamed) < len(pairs):
            names = [rename.get(name, name) for name, _ in pairs]
            if twice := [name for name in columns if names.count(name) > 1]:
                raise ValueError(f"column {twice[0]} stands twice")
        return renamed

    # Made once, since making it takes longer than most lines do.
    decoder = json.JSONDecoder(
        object_pairs_hook=once, parse_int=str, parse_float=str, parse_constant=str
    )

    def read(line: str) -> dict[str, str | None]:
        values = decoder.decode(line)
        if not isinstance(values, dict):
            raise ValueError("it is JSON, but no object")  # noqa: TRY004 as every other line
        is_escaped = "\\u" in line
        for name in columns:
            if name in values and (is_escaped or not isinstance(values[name], str)):
                values[name] = _scalar(values[name], name)
        return values

    return read


def _scalar(value: object, name: str) -> str | None:
    """Return a JSON value as text; numbers have come as text already.

    Raises:
        ValueError: It is nested, or holds NUL or half of a surrogate pair.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        raise ValueError(f"column {name} holds a nested value, not a single one")  # noqa: TRY004
    text = None if value is None else str(value)
    if "\0" in (text or ""):
        raise ValueError(f"column {name} holds a NUL character")
    if re.search("[\ud800-\udfff]", text or ""):
        raise ValueError(f"column {name} holds half of a surrogate pair")
    return text
