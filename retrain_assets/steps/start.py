"""Read a sample of somebody's data, and put its YAML and its files where the project has them.

CSV, JSON lines and parquet are read by the readers of landing files, Delta and Iceberg tables as
`delta:` and `iceberg:` read them, a table of a database as `sql:` does, and an Excel sheet becomes
a parquet file. Not here: guessing (`domain/start`).
"""

import csv
import filecmp
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from retrain_assets.domain.start.guess import Sample
from retrain_assets.domain.start.meaning import slug
from retrain_assets.specs.dataset import TAGGED, DatasetSpec
from retrain_assets.specs.sql import SqlSpec
from retrain_assets.stores.download import download, is_url, name_file
from retrain_assets.stores.landing.foreign import open_iceberg
from retrain_assets.stores.landing.formats import read_rows
from retrain_assets.stores.landing.readers import RefusedFileError, is_utf8, number_rows
from retrain_assets.stores.landing.sql import FRAME_ROWS, Database
from retrain_assets.stores.place import Folder
from retrain_assets.stores.storage import Storage

TEMPLATES = Path(__file__).parents[1] / "templates" / "project"
MODULE = "PROJECT"  # stands in paths of templates for the name of the project
_LANDED = (".csv", ".jsonl", ".parquet")
_AS_JSONL, _EXCEL = (".ndjson", ".json"), (".xlsx", ".xls", ".xlsb", ".ods")
_AS_CSV = (".txt", ".tsv", ".data")
_DELIMITERS = (",", ";", "\t", "|")
_FIRST_LINES, _MOST_BYTES = 200, 2**30
TABLE_MARKS = "sql:", "iceberg:"
_CURSOR = re.compile(r"^(last_?)?(updat|modif|chang)", re.IGNORECASE)


@dataclass(frozen=True)
class Delivery:
    """A sample, and the files by which it can land.

    Args:
        sample: What was read.
        files: The content or path of each file, by its name; none for a table.
    """

    sample: Sample
    files: dict[str, Path | bytes]


def name_dataset(text: str, names: Collection[str]) -> str:
    """Return a text as the name of a dataset, which differs from names that are taken."""
    name = slug(text)
    return f"{name}_data" if name in {*names, *TAGGED} else name


def read_delivery(path: Path, dataset: str, sheet: str | None = None) -> Delivery:
    """Return the rows of a file, of the files in a folder, or of a Delta table.

    Args:
        path: Where it is.
        dataset: The dataset that it becomes.
        sheet: The sheet of an Excel file; the first by default.

    Raises:
        ValueError: It cannot be read, or its files do not fit each other.
    """
    if (path / "_delta_log").is_dir():
        return _typed(pl.read_delta(str(path)), {"delta": str(path)})
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _LANDED)
        kinds = {file.suffix for file in files}
        if len(kinds) != 1:
            names = ", ".join(sorted(kinds)) or "none"
            raise ValueError(
                f"{path} has files of {names}: give a folder of .csv, .jsonl or .parquet"
            )
        return _read_files(files, {file.name: file for file in files}, kinds.pop(), dataset)
    if not path.is_file():
        raise ValueError(f"{path} is neither a file nor a folder")
    ending, name = path.suffix.lower(), slug(path.stem)
    if ending in _EXCEL:
        content = _read_excel(path, sheet)
        return _read_files([content], {f"{name}.parquet": content}, ".parquet", dataset)
    ending = ".jsonl" if ending in _AS_JSONL else ".csv" if ending in _AS_CSV else ending
    if ending not in _LANDED:
        raise ValueError(
            f"{path.name}: give CSV, JSON lines, parquet, Excel or a Delta table, unpacked"
        )
    return _read_files([path], {f"{name}{ending}": path}, ending, dataset)


def read_url(url: str, dataset: str, sheet: str | None = None) -> Delivery:
    """Return the rows of a file at a URL, see `read_delivery`; `download` has its errors."""
    with TemporaryDirectory() as folder:
        delivery = read_delivery(download(url, Path(folder), _MOST_BYTES), dataset, sheet)
        files: dict[str, Path | bytes] = {
            name: content.read_bytes() if isinstance(content, Path) else content
            for name, content in delivery.files.items()
        }
    return replace(delivery, files=files)


def is_table(source: str) -> bool:
    """Tell if a source names a table of a database or catalog and no file."""
    return source.startswith(TABLE_MARKS)


def name_source(source: str) -> tuple[str, str]:
    """Return how messages name a source, and the text by which its dataset can be named."""
    if is_table(source):
        table = source.rpartition(":")[2]
        return table, table.rpartition(".")[2]
    name = name_file(source) if is_url(source) else Path(source).name
    return name, name.partition(".")[0]


def read_table(source: str, cursor: str | None, environment: Mapping[str, str]) -> Delivery:
    """Return the rows of a table of a database, which land when the model is trained.

    Args:
        source: `sql:NAME:TABLE`, where `NAME` is the environment variable with the URI, or
            `iceberg:CATALOG.NAMESPACE.TABLE`.
        cursor: The column that grows with each new or changed row; guessed if it is None.
        environment: Holds the URI.

    Raises:
        ValueError: It does not name a table.
        RuntimeError: The table cannot be read, see `Database` and `open_iceberg`.
    """
    if source.startswith(TABLE_MARKS[1]):
        return _read_iceberg(source.removeprefix(TABLE_MARKS[1]))
    _, name, table = f"{source}::".split(":")[:3]
    if not (name and table):
        raise ValueError(f"{source}: write sql:NAME:TABLE; NAME is the variable with the URI")
    rows = pl.concat(Database(SqlSpec(uri=name, table=table), environment).read(most=FRAME_ROWS))
    usual = [name for name in rows.columns if _CURSOR.search(name) and not rows[name].null_count()]
    cursor = cursor or next(iter(usual), None)
    if cursor and cursor not in rows.columns:
        raise ValueError(f"--cursor {cursor}: the table has {', '.join(rows.columns)}")
    sql = {"uri": name, "table": table} | ({"cursor": cursor} if cursor else {})
    return _typed(rows, {"sql": sql})


def _read_iceberg(name: str) -> Delivery:
    table = open_iceberg(name)
    if table is None:
        raise ValueError(f"iceberg:{name}: there is no such table; write CATALOG.NAMESPACE.TABLE")
    return _typed(pl.scan_iceberg(table).head(FRAME_ROWS).collect(), {"iceberg": name})


def _typed(rows: pl.DataFrame, source: Mapping[str, Any]) -> Delivery:
    """Return rows that have their types, and that no file has to land for."""
    read = _rename(rows.columns)
    rows = number_rows(rows.rename(read.get("rename", {})), first=1)
    return Delivery(Sample(rows, source, read), {})


def _read_excel(path: Path, sheet: str | None) -> bytes:
    try:
        rows = pl.read_excel(path, sheet_name=sheet)
    except ModuleNotFoundError as error:
        raise ValueError(f"{path.name}: Excel needs pip install 'retrain-assets[excel]'") from error
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    return buffer.getvalue()


def _read_files(
    contents: Sequence[Path | bytes], files: dict[str, Path | bytes], ending: str, dataset: str
) -> Delivery:
    parts, read = [], dict[str, Any]()
    for content in contents:
        data = content if isinstance(content, bytes) else _read_bytes(content)
        read = read or _options(data, ending)
        parts.append(_rows(data, read, ending))
    columns = parts[0].columns
    difference = {name for part in parts for name in set(part.columns) ^ set(columns)}
    if difference:
        names = ", ".join(sorted(difference))
        raise ValueError(f"the files differ in their columns: {names}; give them the same columns")
    rows = pl.concat(parts, how="vertical_relaxed", rechunk=True)
    source = {"landing": f"{dataset}/*{ending}"}
    return Delivery(Sample(rows, source, read, len(parts)), files)


def _read_bytes(path: Path) -> bytes:
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path.name} has more than 1 GiB: give a part of it, such as one month")
    return path.read_bytes()


def _rows(data: bytes, read: dict[str, Any], ending: str) -> pl.DataFrame:
    """Return the rows of a file as they stand in it, by the reader of landing files."""
    names = _names(data, read, ending)
    spec = DatasetSpec.model_validate(
        {
            "name": "sample",
            "landing": f"sample/*{ending}",
            "read": read,
            "partition": {"by": "none"},
            "key": [names[0]],
            "columns": {name: {"type": "text"} for name in names},
        }
    )
    try:
        if ending == ".parquet":
            return number_rows(pl.read_parquet(io.BytesIO(data)).rename(read.get("rename", {})), 1)
        return read_rows(data, spec)[0]
    except RefusedFileError as error:
        raise ValueError(f"the file cannot be read: {error}") from error


def _names(data: bytes, read: dict[str, Any], ending: str) -> list[str]:
    rename = read.get("rename", {})
    names: list[str]
    if ending == ".parquet":
        names = list(pl.read_parquet_schema(io.BytesIO(data)))
    elif ending == ".jsonl":
        names = _json_names(data)
    else:
        names = read.get("header") or _lines(data, read)[0]
    return [rename.get(name, name) for name in _single(names)]


def _json_names(data: bytes) -> list[str]:
    """Return the keys of all objects: in the order of the first lines, later ones by name."""
    try:
        heads = [
            json.loads(line) for line in data.split(b"\n", _FIRST_LINES)[:_FIRST_LINES] if line
        ]
        names = dict.fromkeys(name for head in heads for name in head)
        others = pl.read_ndjson(io.BytesIO(data), infer_schema_length=None).columns
    except (ValueError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"the file is not JSON with one object a line: {error}") from error
    return [*names, *sorted(set(others) - set(names))]


def _single(names: Iterable[str]) -> list[str]:
    """Return the names that stand once; others, such as several without a name, are left out."""
    counts = Counter(names)
    return [name for name in counts if counts[name] == 1]


def _options(data: bytes, ending: str) -> dict[str, Any]:
    """Return the options of `read` that show in the first lines of a file."""
    if ending == ".parquet":
        return _rename([*pl.read_parquet_schema(io.BytesIO(data))])
    read: dict[str, Any] = {}
    if (encoding := _encoding(data)) != "utf-8":
        read["encoding"] = encoding
    if ending == ".jsonl":
        return read | _rename(_json_names(data))
    delimiter = max(_DELIMITERS, key=lambda mark: _width(data, {**read, "delimiter": mark}))
    if delimiter != ",":
        read["delimiter"] = delimiter
    lines = _lines(data, read)
    if any(field != field.strip() for row in lines[1:] for field in row):
        read["trim"] = True
    fields = pl.Series([field for row in lines[1:] for field in row], dtype=pl.String)
    if delimiter != "," and _has_decimal_comma(fields):
        read["decimal"] = ","
    if mark := _find_thousands(fields, read.get("decimal", ".")):
        read["thousands"] = mark
    if _is_headless(lines):
        return read | {"header": [f"column_{number}" for number in range(1, len(lines[0]) + 1)]}
    return read | _rename(lines[0])


def _encoding(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if is_utf8(data):
        return "utf-8"
    return "cp1252" if not set(b"\x81\x8d\x8f\x90\x9d") & set(data) else "latin-1"


def _lines(data: bytes, read: dict[str, Any]) -> list[list[str]]:
    """Return the fields of the first lines."""
    encoding = read.get("encoding", "utf-8-sig")
    text = data[: 2**20].decode(encoding, errors="ignore")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=read.get("delimiter", ","))
    rows = []
    for row in reader:
        rows += [row] if row else []
        if len(rows) == _FIRST_LINES:
            break
    if not rows:
        raise ValueError("the file is empty")
    if rows[0][0].startswith("#"):
        raise ValueError("the first line is a comment: delete it, in later files too")
    return rows


def _width(data: bytes, read: dict[str, Any]) -> int:
    """Return how many fields nearly all lines have with a delimiter; 1 if they differ."""
    widths = [len(row) for row in _lines(data, read)]
    return widths[0] if widths.count(widths[0]) > 0.9 * len(widths) else 1


def _has_decimal_comma(fields: pl.Series) -> bool:
    with_comma = fields.str.contains(r"^\s*-?[0-9]+,[0-9]+\s*$").sum()
    with_point = fields.str.contains(r"^\s*-?[0-9]+\.[0-9]+\s*$")
    may_be_grouped = fields.str.contains(r"^\s*-?[0-9]{1,3}\.[0-9]{3}\s*$")
    return bool(with_comma and not (with_point & ~may_be_grouped).any())


def _find_thousands(fields: pl.Series, decimal: str) -> str | None:
    """Return the mark of thousands, if one stands in numbers that can mean nothing else."""
    point = re.escape(decimal)
    for mark in ".,'".replace(decimal, ""):  # a space also parts telephone numbers
        group = rf"{re.escape(mark)}[0-9]{{3}}"
        certain = rf"^\s*-?[0-9]{{1,3}}(({group})+{point}[0-9]+|({group}){{2,}})\s*$"
        if fields.str.contains(certain).any():
            return mark
    return None


def _is_headless(lines: Sequence[Sequence[str]]) -> bool:
    """Tell if the first line is data: half of its fields are numbers, as names never are."""
    first = pl.Series([field.strip() for field in lines[0]], dtype=pl.String)
    numbers = first.cast(pl.Float64, strict=False).is_not_null() & (first != "")
    return len(lines) > 1 and int(numbers.sum()) * 2 >= len(first) and first[-1] != ""


def _rename(names: Iterable[str]) -> dict[str, Any]:
    """Return other names for columns that a contract cannot name."""
    renamed: dict[str, str] = {}
    for number, name in enumerate(_single(names), start=1):
        clean = "".join(letter for letter in name if letter.isprintable()).strip().lstrip("_")[:200]
        if clean != name or not clean or "{{" in clean:
            renamed[name] = clean.replace("{{", "(") if clean else f"column_{number}"
    return {"rename": renamed} if renamed else {}


def land_files(delivery: Delivery, landing: Path, dataset: str) -> Iterator[Path]:
    """Copy the files of a delivery below the landing folder; those that are there stay.

    Raises:
        ValueError: Another file of that name has landed; nothing lands then.
    """
    files = {landing / dataset / name: content for name, content in delivery.files.items()}
    absent = {path: content for path, content in files.items() if not path.exists()}
    for path, content in files.items():
        if path not in absent and not _holds(path, content):
            raise ValueError(f"{path} is there already: name the dataset by --dataset")
    for path, content in absent.items():
        _write(path, content)
        yield path


def _holds(path: Path, content: Path | bytes) -> bool:
    if isinstance(content, Path):
        return filecmp.cmp(path, content, shallow=False)
    return path.read_bytes() == content


def _write(path: Path, content: Path | bytes) -> None:
    """Write a file such that it is there as a whole or not at all."""
    if not isinstance(content, Path):
        Folder(path.parent).write(path.name, content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    shutil.copy2(content, unfinished)  # with its time, by which it has settled
    unfinished.rename(path)


def write_new(path: Path, text: str) -> None:
    """Write a file that must not exist yet.

    Raises:
        ValueError: It exists.
    """
    if path.exists():
        raise ValueError(f"{path} is there already: choose another name, or delete it")
    _write(path, text.encode())


def write_start(
    file: Path, text: str, delivery: Delivery, storage: Storage, dataset: str
) -> list[str]:
    """Let a delivery land, write the YAML that was drafted from it, and return what has landed.

    Raises:
        ValueError: The YAML exists, or another file has landed; nothing is written then.
    """
    landed: list[str] = []
    if not file.exists():
        with storage.deliver() as folder:
            paths = [path.relative_to(folder) for path in land_files(delivery, folder, dataset)]
        landed = [f"{storage.landing_place}/{path}" for path in paths]
    write_new(file, text)
    return landed


def write_project(folder: Path, module: str, only: Collection[str] | None = None) -> Iterator[Path]:
    """Write the files of a project that do not exist yet, and yield them.

    Args:
        folder: The folder of the project.
        module: The name of its package.
        only: Write no other files than these.
    """
    for template in sorted(path for path in TEMPLATES.rglob("*") if path.is_file()):
        name = str(template.relative_to(TEMPLATES)).replace(MODULE, module)
        name = name.replace("dot_", ".").removesuffix(".tmpl")
        target = folder / name
        if not target.exists() and (only is None or name in only):
            values = {"project": module, "folder": str(folder)}
            write_new(target, Template(template.read_text(encoding="utf-8")).substitute(values))
            yield target
