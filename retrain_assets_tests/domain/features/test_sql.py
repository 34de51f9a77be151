"""Whatever a query does, its rows come back in the order of the table."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from retrain_assets.domain.features.sql import QueryError, run_in_order

COUNT = 200_000
RANDOM = np.random.default_rng(0)
ROWS = pl.DataFrame({"id": np.arange(COUNT), "k": RANDOM.integers(0, 900, COUNT)})
HISTORY = pl.DataFrame({"k": RANDOM.integers(0, 1000, 50_000), "v": RANDOM.normal(size=50_000)})
MEANS = "(SELECT k, AVG(v) AS m FROM history GROUP BY k)"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT rows.id, h.m FROM rows LEFT JOIN MEANS AS h ON rows.k = h.k",
        "WITH h AS MEANS SELECT r.id, h.m FROM h RIGHT JOIN rows AS r USING (k)",
        "select * from rows left join MEANS AS h using (k)",
        "SELECT id, (SELECT AVG(v) FROM history WHERE history.k = rows.k) AS m FROM rows",
        "SELECT r.id, AVG(h.v) AS m FROM rows AS r LEFT JOIN history AS h USING (k)\nGROUP BY r.id",
        "WITH j AS (SELECT id, m, _row FROM rows LEFT JOIN MEANS AS h USING (k)) SELECT id FROM j",
        "SELECT id, k /* SELECT ( */ FROM rows ORDER BY k -- SELECT (",
        "SELECT id, 'group by' AS \"group by\" FROM rows ORDER BY k",
        "-- SELECT (\nSELECT id, 'it''s (' AS x FROM rows ORDER BY k",
    ],
)
def test_rows_keep_their_order(sql: str) -> None:
    found = run_in_order(sql.replace("MEANS", MEANS), ROWS, {"history": HISTORY})
    assert found["id"].equals(ROWS["id"])
    assert not {"_row", "_place"} & set(found.columns)


def test_a_subquery_without_the_place_is_fine_as_long_as_it_moves_no_row() -> None:
    found = run_in_order(
        "WITH half AS (SELECT id // 2 AS h FROM rows) SELECT h FROM half", ROWS, {}
    )
    assert found["h"].equals((ROWS["id"] // 2).alias("h"))


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (
            "WITH j AS (SELECT id, m FROM rows LEFT JOIN MEANS AS h USING (k)) SELECT * FROM j",
            "select the column _row",
        ),
        ("SELECT id FROM rows JOIN history USING (k)", "more than once"),
        ("FROM rows", "write SELECT"),
    ],
)
def test_a_query_that_loses_track_of_rows_is_refused(sql: str, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        run_in_order(sql.replace("MEANS", MEANS), ROWS, {"history": HISTORY})


def test_other_mistakes_are_told_by_polars() -> None:
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match="nothing"):
        run_in_order("WITH a AS (SELECT nothing FROM rows) SELECT * FROM a", ROWS, {})
