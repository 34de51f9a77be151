"""What is wrong with the columns of a spec, told by trying patterns, formats and SQL on no data.

Not here: what can be told without trying, which the spec itself refuses.
"""

from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import polars as pl

from retrain_assets.domain.data.patterns import mistaken_pattern
from retrain_assets.domain.data.values import mistaken_expression, moment
from retrain_assets.specs.dataset import ColumnType, DatasetSpec

_SAMPLE = datetime(2013, 1, 31, 13)  # noqa: DTZ001 local wherever it is used


def column_mistakes(spec: DatasetSpec) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each field that cannot work, as its path in the YAML, and why."""
    for name, column in spec.columns.items():
        if column.pattern is not None and (why := mistaken_pattern(column.pattern)) is not None:
            yield (
                ("columns", name, "pattern"),
                f"does not compile both in polars and in Python: {why}",
            )
        if column.expression is not None and (why := mistaken_expression(name, spec)) is not None:
            yield ("columns", name, "expression"), why
    for name, written in spec.read.date_format.items():
        kind = spec.columns[name].type
        if (why := _of_format(written, kind, spec.partition.timezone)) is not None:
            yield ("read", "date_format", name), why


def _of_format(written: str, kind: ColumnType, timezone: str) -> str | None:
    """Why a format cannot be read back as what was written by it."""
    if "%Z" in written:
        return "names zones by %Z, of which many share a name: use %z"
    sample = pl.lit(_SAMPLE).dt.replace_time_zone(timezone)
    wanted = sample.dt.date() if kind == "date" else sample.dt.convert_time_zone("UTC")
    read = moment(sample.dt.strftime(written), kind, written, timezone)
    try:
        if pl.select(read == wanted).item():
            return None
    except pl.exceptions.PolarsError as error:
        return f"{written!r} is no format: {str(error).partition(chr(10))[0][:300]}"
    shown = _SAMPLE.replace(tzinfo=ZoneInfo(timezone)).isoformat()
    return f"{written!r} leaves out what it takes to read {shown} back: name the year and so on"
