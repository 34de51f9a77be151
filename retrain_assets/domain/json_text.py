"""Write values as JSON, and read metrics back: NaN and infinity are null, as JSON has no such word.

Not here: JSON that is delivered or requested.
"""

import json
import math
from collections.abc import Callable
from typing import Any

from pydantic_core import to_json


def write_json(
    value: object, indent: int | None = None, fallback: Callable[[Any], str] | None = None
) -> str:
    """Return a value as JSON; `fallback` gives the text of what JSON has no form for."""
    return to_json(value, indent=indent, inf_nan_mode="null", fallback=fallback).decode()


def read_metrics(text: str) -> dict[str, float]:
    """Return metrics by name from stored JSON, in which null stands for an undefined one (NaN)."""
    metrics = json.loads(text).items()
    return {name: math.nan if value is None else value for name, value in metrics}
