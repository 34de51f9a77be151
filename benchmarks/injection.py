"""Drift that is put into days of real flights.

Not here: who is to notice it (`detection.py`) or to recover from it (`recovery.py`).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

TARGET, NUMBER, CATEGORY = "delayed", "temp", "carrier"
RAMP = 10  # days that drift takes to grow where it is not sudden


@dataclass(frozen=True)
class Injection:
    """Drift that is put into days."""

    kind: str
    size: float
    sudden: bool

    def into(self, day: pl.DataFrame, since: int, random: np.random.Generator) -> pl.DataFrame:
        """A day with the drift of so many days after it began."""
        size = self.size if self.sudden else self.size * min(1.0, (since + 1) / RAMP)
        hit = pl.Series(random.random(day.height) < size)
        number, flag = pl.col(NUMBER), pl.lit(hit)
        spread = float(day[NUMBER].std() or 1.0)  # type: ignore[arg-type]
        changed: dict[str, pl.Expr] = {
            "shift": (number + size * 3 * spread).alias(NUMBER),
            "scale": (number.mean() + (number - number.mean()) * (1 + 2 * size)).alias(NUMBER),
            "replaced": pl.when(flag).then(pl.lit("UA")).otherwise(CATEGORY).alias(CATEGORY),
            "nulls": pl.when(flag).then(None).otherwise(number).alias(NUMBER),
            "labels": pl.when(flag).then(1 - pl.col(TARGET)).otherwise(TARGET).alias(TARGET),
        }
        return day.with_columns(changed[self.kind])
