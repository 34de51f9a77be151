"""What clients of `mlflow models serve` send and expect: features, as their model takes them.

Not here: raw rows in other clients' formats (`formats`), scoring, and the paths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from retrain_assets.serving.contract import RequestError, count_rows, refused
from retrain_assets.serving.formats import parsed

if TYPE_CHECKING:
    from retrain_assets.serving.score import Scored
    from retrain_assets.serving.version import Version

_NUMBERS = TypeAdapter(list[Annotated[float, Field(strict=True, allow_inf_nan=False)] | None])
_TEXTS = TypeAdapter(list[Annotated[str, Field(strict=True)] | None])


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Split(_Strict):
    """Column names beside rows of values."""

    columns: list[str]
    data: list[list[Any]]


class Invocation(_Strict):
    """What a client of `mlflow models serve` sends; one of the forms, each of features."""

    dataframe_split: Split | None = None
    dataframe_records: list[dict[str, Any]] | None = None
    inputs: dict[str, list[Any]] | list[dict[str, Any]] | None = None
    instances: list[dict[str, Any]] | None = None
    params: dict[str, Any] | None = None


def read_invocation(content: bytes, version: Version, most: int) -> pl.DataFrame:
    """Features as MLflow's clients send them; further columns are not looked at.

    Raises:
        RequestError: It is none of the forms, a feature is missing or of another type.
    """
    sent = parsed(Invocation, content)
    forms = [form for name, form in sent if name != "params" and form is not None]
    if len(forms) != 1:
        said = "give one of dataframe_split, dataframe_records, inputs or instances"
        raise RequestError(422, "invalid_rows", said)
    columns = _columns(forms[0], version.columns, most)
    made = []
    for name, kind in version.schema.items():
        takes: TypeAdapter[Any] = _TEXTS if kind == pl.String else _NUMBERS
        try:
            values = takes.validate_python(columns[name])
        except ValidationError as error:
            (fault, *_) = error.errors(include_url=False, include_input=False)
            told = {"row": fault["loc"][0], "column": name, "message": fault["msg"]}
            raise refused([told]) from None
        made.append(pl.Series(name, values, dtype=kind))
    return pl.DataFrame(made)


def _columns(form: Any, names: list[str], most: int) -> dict[str, list[Any]]:
    if isinstance(form, Split):
        count_rows(len(form.data), most)
        count = len(form.columns)
        if len(set(form.columns)) < count:
            raise RequestError(422, "invalid_rows", "columns has a name twice: give each once")
        for place, values in enumerate(form.data):
            if len(values) != count:
                said = f"it has {len(values)} values for {count} columns"
                raise refused([{"row": place, "column": None, "message": said}])
        rows = [dict(zip(form.columns, row, strict=True)) for row in form.data]
    elif isinstance(form, list):
        count_rows(len(form), most)
        rows = form
    else:
        missing = [name for name in names if name not in form]
        lengths = {len(form[name]) for name in names if name in form}
        if missing or len(lengths) != 1:
            said = f"inputs lacks {', '.join(missing)}" if missing else "columns differ in length"
            raise RequestError(422, "invalid_rows", said)
        count_rows(lengths.pop(), most)
        return {name: form[name] for name in names}
    for place, row in enumerate(rows):
        if missing := [name for name in names if name not in row]:
            said = f"row {place} (counted from 0) lacks {', '.join(missing)}"
            raise RequestError(422, "invalid_rows", said)
    return {name: [row[name] for row in rows] for name in names}


def invocation_answer(scored: Scored) -> dict[str, Any]:
    """What `mlflow models serve` answers: the class, or the number of a regression."""
    output, classes = scored.output, scored.version.pipeline
    if scored.version.classes is None:
        return {"predictions": output.tolist()}
    place = (output > 0.5).astype(int) if output.ndim == 1 else output.argmax(axis=1)  # noqa: PLR2004
    return {"predictions": classes.classes_[place].tolist()}
