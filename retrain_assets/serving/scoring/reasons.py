"""The features that moved a prediction most, in words.

Not here: SHAP values.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from retrain_assets.serving.scoring.request import RequestError
from retrain_assets.serving.scoring.score import Scored

MOST, MOST_ROWS = 20, 1_000


def read_count(text: str) -> int:
    """Return how many reasons a request asks for.

    Raises:
        RequestError: It is no such number.
    """
    is_short = text.isascii() and text.isdigit() and len(text) <= len(str(MOST))
    if not (is_short and int(text) <= MOST):
        raise RequestError(422, "reasons", f"reasons is a whole number from 0 to {MOST}")
    return int(text)


def list_reasons(
    scored: Scored, count: int, descriptions: Mapping[str, str]
) -> list[list[dict[str, Any]]]:
    """Return the features that moved each row most.

    Of several classes, it is the most likely one that was moved.

    Args:
        scored: The predictions.
        count: How many features of each row.
        descriptions: Words for features.

    Raises:
        RequestError: There are too many rows, or the model has no SHAP values.
    """
    version, rows = scored.version, len(scored.output)
    if rows > MOST_ROWS:
        raise RequestError(413, "too_many_rows", f"reasons are given for up to {MOST_ROWS} rows")
    try:
        values = version.explain(scored.features)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"version {version.number} cannot give reasons: {error}"
        raise RequestError(422, "reasons", message) from error
    places = scored.output.argmax(axis=1) if scored.output.ndim > 1 else np.zeros(rows, int)
    effects = values[np.arange(rows), places]
    columns = [list(column) for column in scored.features]

    def describe(row: int, place: int) -> dict[str, Any]:
        name, value = version.columns[place], columns[place][row]
        return _describe(name, value, float(effects[row, place]), descriptions.get(name, name))

    order = np.argsort(-np.abs(effects), axis=1, kind="stable")[:, :count]
    return [[describe(row, place) for place in places] for row, places in enumerate(order)]


def _describe(name: str, value: Any, effect: float, words: str) -> dict[str, Any]:
    text = "missing" if value is None else f"{value:.6g}" if isinstance(value, float) else value
    verb = "raises" if effect > 0 else "lowers" if effect < 0 else "does not move"
    text = f"{words} is {text}, which {verb} the prediction"
    return {"feature": name, "value": value, "effect": effect, "text": text}
