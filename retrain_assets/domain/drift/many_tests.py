"""Alarms of the tests of many segments together: the share of false ones stays within its level.

Each test is made at its share of the level, so an alarm that stands alone is sound whatever the
other tests say (Bonferroni). Where several tests are far out, more of them may alarm: the procedure
of Benjamini and Hochberg (Journal of the Royal Statistical Society B 57, 1995). Not here: the test
of one segment.
"""

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.drift.observations import P_VALUE

TEST, ROW = (PARTITION, "role"), "_row"


def alert_together(rows: pl.DataFrame) -> pl.DataFrame:
    """Return monitored rows of all segments, with the alarms that they have together.

    Args:
        rows: Their p-values have the level of each test as threshold: the k smallest alarm where
            none of them is above k times that.
    """
    numbered = rows.with_row_index(ROW)
    tests = numbered.filter(pl.col("measure") == P_VALUE)
    p_value, level, place = pl.col("statistic"), pl.col("threshold"), pl.col("place")
    ranked = tests.with_columns(place=p_value.rank("ordinal").over(TEST))
    count = place.filter(p_value <= place * level).max().over(TEST).fill_null(1)
    limits = ranked.select(ROW, limit=level * count)
    joined, limit = (
        numbered.join(limits, on=ROW, how="left", maintain_order="left"),
        pl.col("limit"),
    )
    return joined.with_columns(
        threshold=pl.coalesce(limit, level),
        alert=pl.when(limit.is_null()).then(pl.col("alert")).otherwise(p_value <= limit),
    ).select(rows.columns)
