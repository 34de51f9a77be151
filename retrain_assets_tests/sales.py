"""A small dataset of files that land, for tests of listing and of reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrain_assets.domain.data.row_checks import RawRows
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.landing.source import LocalFiles

DAY = "2013-01-31"


def spec(pattern: str = "sales/{partition}.csv", **changes: Any) -> DatasetSpec:
    attributes = {
        "name": "sales",
        "landing": pattern,
        "partition": {"by": "day", "column": "day", "start": "2013-01-01", "end": "2013-12-31"},
        "columns": {"id": {"type": "int"}, "day": {"type": "date"}, "note": {"type": "text"}},
        "key": ["id"],
    }
    return DatasetSpec.model_validate(attributes | changes)


def deliver(root: Path, path: str, content: bytes = b"x") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def read(root: Path, content: bytes, ending: str = "csv", **changes: Any) -> RawRows:
    deliver(root, f"sales/{DAY}.{ending}", content)
    source = LocalFiles(root, spec(f"sales/{{partition}}.{ending}", **changes))
    return source.read(source.files()[0])
