"""From a frame of features to the matrix an estimator takes, the same for a batch and for one row.

Imports scikit-learn, so it is imported only where models are fitted or loaded. Not here: choosing
an estimator, making features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator, TransformerMixin

from retrain_assets.domain.features.build import FeatureError

MAX_CATEGORIES = 254  # what HistGradientBoosting can tell apart, beside missing
TEXT = (pl.String, pl.Categorical, pl.Enum)


def is_category(dtype: pl.DataType) -> bool:
    """Return whether a column of this type is encoded as a category."""
    return dtype in TEXT


class FrameEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # untyped bases
    """Numbers as they are, categories as codes; missing and never-seen values as NaN.

    All it learns is kept as lists of text, so that a stored model holds no code.

    Args:
        most: How many values of a category are told apart.

    Attributes:
        columns_: Names of the features, in the order of the matrix.
        categories_: Of each category column, its values: the most frequent first, ties by name.
            The code of a value is its place; values after the first `most` count as missing.
        empty_: Columns without a single value in training, which become 0: nothing was learned
            from them, and some estimators cannot be fitted on a column of NaN.
    """

    columns_: list[str]
    empty_: list[str]
    categories_: dict[str, list[str]]
    most = MAX_CATEGORIES  # for encoders that were stored before this was an argument

    def __init__(self, most: int = MAX_CATEGORIES) -> None:
        self.most = most

    def fit(self, frame: Any, target: object = None) -> FrameEncoder:
        """Learn columns and categories.

        Args:
            frame: Features: a polars or pandas frame, or a list of dicts.
            target: Not looked at.

        Raises:
            FeatureError: A column is neither number, boolean nor text.
        """
        del target
        features = as_frame(frame)
        for name, dtype in features.schema.items():
            if not (is_category(dtype) or _is_number(dtype)):
                raise FeatureError(f"feature {name} is of type {dtype}: make it a number or text")
        self.columns_ = features.columns
        self.empty_ = [column.name for column in features if column.null_count() == len(column)]
        self.categories_ = {
            name: _most_frequent(features[name], self.most)
            for name, dtype in features.schema.items()
            if is_category(dtype)
        }
        return self

    def transform(self, frame: Any) -> np.ndarray:
        """Encode rows.

        Args:
            frame: Features as in `fit`; further columns are not looked at.

        Returns:
            C-contiguous float64 of shape (rows, features).

        Raises:
            FeatureError: A column is missing, or holds text for numbers or the reverse.
        """
        features = self._columns_of(as_frame(frame))
        encoded = features.select(self._encode(name) for name in self.columns_)
        return np.ascontiguousarray(encoded.to_numpy())

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "columns_")

    def _encode(self, name: str) -> pl.Expr:
        column = pl.col(name)
        if name in self.empty_:
            return column.is_null().cast(pl.Float64) * 0.0
        if name not in self.categories_:
            return column.cast(pl.Float64)
        categories = pl.Enum(self.categories_[name])
        return column.cast(pl.String).cast(categories, strict=False).to_physical().cast(pl.Float64)

    def _columns_of(self, features: pl.DataFrame) -> pl.DataFrame:
        missing = [name for name in self.columns_ if name not in features.columns]
        if missing:
            raise FeatureError(f"features lack {', '.join(missing)}: give every column of training")
        columns = features.select(self.columns_)
        for name, dtype in columns.schema.items():
            expected, fits = "a number", _is_number(dtype)
            if name in self.categories_:
                expected, fits = "text", is_category(dtype)
            if not fits and columns[name].null_count() < columns.height:
                value = columns[name].drop_nulls()[0]
                raise FeatureError(
                    f"feature {name} is {dtype}, such as {value!r}: it was {expected} in training"
                )
        return columns


class FrameColumns(FrameEncoder):
    """Columns for an estimator that was fitted elsewhere: numbers as float, text as category.

    Args:
        with_names: Whether it was fitted on a pandas frame, and so needs one with column names.
    """

    def __init__(self, *, with_names: bool = True) -> None:
        self.with_names = with_names

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a stored encoder; the attribute was once called `named`."""
        self.__dict__.update(state)
        self.with_names = self.__dict__.pop("named", self.__dict__.get("with_names", True))

    def transform(self, frame: Any) -> Any:
        """Return the columns as the estimator takes them: a pandas frame, or its values.

        Raises:
            FeatureError: As `FrameEncoder.transform`.
        """
        columns = self._columns_of(as_frame(frame)).select(
            pl.col(name).cast(pl.Categorical if name in self.categories_ else pl.Float64)
            for name in self.columns_
        )
        return columns.to_pandas() if self.with_names else columns.to_numpy()


def as_frame(rows: Any) -> pl.DataFrame:
    """Return a polars or pandas frame, or a list of dicts, as a polars frame.

    Raises:
        FeatureError: It is something else.
    """
    if isinstance(rows, pl.DataFrame):
        return rows
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        return pl.from_dicts(rows, infer_schema_length=None)
    if type(rows).__module__.partition(".")[0] == "pandas":
        return pl.from_pandas(rows)
    kind = type(rows).__name__
    raise FeatureError(f"features came as {kind}: give a polars or pandas frame or a list of dicts")


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)


def _most_frequent(values: pl.Series, most: int) -> list[str]:
    counts = values.rename("value").cast(pl.String).drop_nulls().value_counts()
    ordered = counts.sort("count", "value", descending=[True, False])
    return ordered["value"].head(most).to_list()
