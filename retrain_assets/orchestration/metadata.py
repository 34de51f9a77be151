"""What a run leaves on its assets for people: rows, columns, numbers that the UI draws over time.

What a person looks at after monitoring: what moved, when, and whether it asks for retraining.

Not here: the numbers.
"""

from typing import Any

import dagster as dg
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.triggers import decide
from retrain_assets.orchestration import checks
from retrain_assets.specs.partition import ALL
from retrain_assets.steps.inspect import status
from retrain_assets.steps.monitoring.monitor import read_sides
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.tables.tables import Tables

AS_OF_TAG, CAUSES_TAG, BECAUSE_TAG = "retrain/as_of", "retrain/causes", "retrain/because"
HELD_TAG = "retrain/held"  # the version that is judged again
DATASET_TAG, MODEL_TAG = "retrain/dataset", "retrain/model"  # of assets and of runs
DIGITS = 4  # of a number that is drawn
ROWS = "dagster/partition_row_count"


def describe_table(tables: Tables, table: str) -> dict[str, Any]:
    """A table as it is now: name, place, version, rows and columns."""
    found = tables.describe(table)
    schema = found.schema if found else {}
    columns = [dg.TableColumn(name, str(dtype)) for name, dtype in schema.items()]
    return {
        "dagster/table_name": table,
        "dagster/uri": tables.uri(table),
        "dagster/row_count": found.rows if found else 0,
        "dagster/column_schema": dg.TableSchema(columns),
        "delta_version": found.version if found else 0,
        **({"columns_widened": found.widened} if found and found.widened else {}),
    }


def round_series(numbers: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Numbers of each partition, by its key, rounded to be drawn.

    Args:
        numbers: A row a partition: its key and columns of numbers; nulls are left out.
    """
    rows = {row.pop(PARTITION): row for row in numbers.iter_rows(named=True)}
    return {
        key: {name: round_number(value) for name, value in row.items() if value is not None}
        for key, row in rows.items()
    }


def add_series(context: dg.AssetExecutionContext, key: dg.AssetKey, numbers: pl.DataFrame) -> None:
    """Leave numbers on each partition of the asset that a run materializes."""
    for partition, found in round_series(numbers).items():
        context.add_asset_metadata(found, key, None if partition == ALL else partition)


def round_number(value: float) -> float:
    """A number as it is shown; whole ones as they are."""
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def link_mlflow_run(tracking_uri: str, run_id: str) -> dg.MetadataValue[Any]:
    """Where a run is seen in MLflow: a link to its server, else how to open the database."""
    if tracking_uri.startswith(("http://", "https://")):
        return dg.MetadataValue.url(f"{tracking_uri.rstrip('/')}/#/runs/{run_id}")
    return dg.MetadataValue.md(
        f"run `{run_id}`, after `mlflow ui --backend-store-uri {tracking_uri}`"
    )


def draw_pictures(context: dg.AssetExecutionContext, state: ModelState, key: str) -> dict[str, Any]:
    """Metadata of monitoring; what was monitored is stored by now, and stands without it.

    Args:
        context: Of the run, which logs why there is none.
        state: The model.
        key: The newest partition that was monitored.
    """
    try:
        return _draw_pictures(state, key)
    except Exception:  # a run that failed here would not be asked for again
        context.log.exception("no pictures of %s", key)
        return {"pictures": "not drawn, see the log of the run"}


def _draw_pictures(state: ModelState, key: str) -> dict[str, Any]:
    from retrain_assets.reports.movers import draw_movers, draw_watched_drift
    from retrain_assets.reports.plots import to_markdown

    table = state.table("monitoring")
    rows = state.tables.collect(state.tables.scan(table), table)
    wish = decide(state.spec, state.situation())
    said = [{"cause": one.cause, "fired": one.fired, "reason": one.reason} for one in wish.causes]
    return {
        "drift": dg.MetadataValue.md(to_markdown(draw_watched_drift(rows))),
        "moved": dg.MetadataValue.md(
            to_markdown(draw_movers(*read_sides(state, key), status.list_moved_columns(state)))
        ),
        "retrain": wish.reason,
        "causes": checks.table(said),
    }
