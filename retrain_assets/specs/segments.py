"""The YAML of segments: one model for each value of a column, beside the pooled model of all rows.

Not here: reading the rows of a segment, and the list of values that a command writes.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from pydantic import Field

from retrain_assets.specs.base import Mistakes, Name, Spec

Value = str | int
MOST, LONGEST_NAME, DIGITS = 2000, 63, 8
_UNNAMED = re.compile("[^a-z0-9]+")


class SegmentSpec(Spec):
    """The rows that a model is about: those with one value in a column of the dataset.

    Args:
        column: The column.
        value: Its value, as text.
        min_rows: With fewer rows in the windows, the model is not trained.
        pooled: The model of all rows, which answers as long as this one has no version.
    """

    column: str
    value: str
    min_rows: int = Field(0, ge=0)
    pooled: Name | None = None


class ForEachSpec(Spec):
    """One model for each value of a column.

    Args:
        column: The column of the dataset.
        values: The values.
        top: Instead of `values`: how many values `retrain segments` lists, those of most rows.
        min_rows: With fewer rows in the windows, a segment takes the pooled model.
    """

    column: str
    values: list[Value] | None = Field(None, min_length=1, max_length=MOST)
    top: int | None = Field(None, ge=1, le=MOST)
    min_rows: int = Field(1000, ge=0)

    def _find_mistakes(self) -> Mistakes:
        if (self.values is None) == (self.top is None):
            yield "give either `values` or `top`"
        texts = [str(value) for value in self.values or ()]
        if len({*texts}) < len(texts):
            twice = next(text for text in texts if texts.count(text) > 1)
            yield f"values: {twice!r} stands there twice"

    def segments(self, model: str, values: Sequence[Value]) -> Iterator[tuple[str, SegmentSpec]]:
        """Yield the name of the model of each value, and its segment.

        Raises:
            ValueError: Two values would give models of one name.
        """
        names: dict[str, str] = {model: "the pooled model"}
        for text in map(str, values):
            name = name_segment(model, text)
            if name in names:
                raise ValueError(
                    f"{text!r} and {names[name]!r} would both be the model {name!r}: leave out one"
                )
            names[name] = text
            yield (
                name,
                SegmentSpec(column=self.column, value=text, min_rows=self.min_rows, pooled=model),
            )


def name_segment(model: str, value: str) -> str:
    """Return the name of the model of a value, which holds letters, digits and underscores only.

    If little of the value can be written so, or too much, the name ends with a digest of the value.
    """
    plain = unicodedata.normalize("NFKD", value).encode("ascii", "ignore").decode().lower()
    slug, room = _UNNAMED.sub("_", plain).strip("_"), LONGEST_NAME - len(model) - 1
    if slug and len(slug) <= room:
        return f"{model}_{slug}"
    digest = sha256(value.encode()).hexdigest()[:DIGITS]
    parts = model[: LONGEST_NAME - DIGITS - 2], slug[: max(0, room - DIGITS - 1)], digest
    return "_".join(filter(None, parts))


def share_budget(part: Any, budget: str, count: int) -> Any:
    """Return a part of the YAML with its share of a budget, if it has one."""
    total = getattr(part, budget, None)
    return part.model_copy(update={budget: total / count}) if part and total else part
