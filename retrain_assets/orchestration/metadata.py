"""Describe for people what a run did: tables, numbers that the UI draws over time, pictures.

Not here: the numbers.
"""

import os
from collections.abc import Callable
from typing import Any

import dagster as dg
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.triggers import decide
from retrain_assets.errors import mask_password
from retrain_assets.orchestration import checks
from retrain_assets.specs.partition import ALL
from retrain_assets.steps.inspect import status
from retrain_assets.steps.monitoring.adapt import read_losses, summarize
from retrain_assets.steps.monitoring.monitor import read_sides
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.tables.tables import Tables

AS_OF_TAG, CAUSES_TAG, BECAUSE_TAG = "retrain/as_of", "retrain/causes", "retrain/because"
HELD_TAG = "retrain/held"  # the version that is judged again
DATASET_TAG, MODEL_TAG = "retrain/dataset", "retrain/model"  # of assets and of runs
DIGITS = 4  # of a number that is drawn
ROWS = "dagster/partition_row_count"


def describe_table(tables: Tables, table: str) -> dict[str, Any]:
    """Return name, place, version, rows and columns of a table as it is now."""
    summary = tables.describe(table)
    schema = summary.schema if summary else {}
    columns = [dg.TableColumn(name, str(dtype)) for name, dtype in schema.items()]
    return {
        "dagster/table_name": table,
        "dagster/uri": tables.uri(table),
        "dagster/row_count": summary.rows if summary else 0,
        "dagster/column_schema": dg.TableSchema(columns),
        "delta_version": summary.version if summary else 0,
        **({"columns_widened": summary.widened} if summary and summary.widened else {}),
    }


def round_series(numbers: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Return the numbers of each partition by its key, rounded to be drawn.

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
    for partition, values in round_series(numbers).items():
        context.add_asset_metadata(values, key, None if partition == ALL else partition)


def round_number(value: float) -> float:
    """Round a number to be drawn; leave an integer as it is."""
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def link_mlflow_run(tracking_uri: str, run_id: str) -> dg.MetadataValue[Any]:
    """Return a link to a run on the MLflow server, or how to open the database."""
    uri = mask_password(tracking_uri, tracking_uri)
    if uri.startswith(("http://", "https://")):
        return dg.MetadataValue.url(f"{uri.rstrip('/')}/#/runs/{run_id}")
    return dg.MetadataValue.md(f"run `{run_id}`, after `mlflow ui --backend-store-uri {uri}`")


def link_page(address: str, file: str) -> dg.MetadataValue[Any]:
    """Return a link to a page of `retrain serve` if its address is set, or else the file.

    Args:
        address: Of the page, below that of the service in `RETRAIN_SERVE_URL`.
        file: The same page.
    """
    if service := os.environ.get("RETRAIN_SERVE_URL"):
        return dg.MetadataValue.url(f"{service.rstrip('/')}/{address}")
    return dg.MetadataValue.path(file)


def describe_stored(
    context: dg.AssetExecutionContext,
    name: str,
    describe: Callable[[], dict[str, Any]],
    remedy: str = "materialize the asset again",
) -> dict[str, Any]:
    """Return metadata of what a run has stored; if it fails, a note that they are missing.

    Args:
        context: Of the run, which logs why there are none.
        name: What is described, such as `card`; the key of the note.
        describe: Makes the metadata.
        remedy: What a person can do to make them later.
    """
    try:
        return describe()
    except Exception:  # whatever it is, such as a full disk: all is stored by now
        context.log.exception("the results are stored, but there is no %s: %s", name, remedy)
        return {name: "not written, see the log of the run"}


def draw_layer(state: ModelState) -> dict[str, Any]:
    """Return the picture of the adaptive layer and a sentence on it."""
    from retrain_assets.reports.plots import draw_adaptation, to_markdown

    rows = read_losses(state)
    picture = dg.MetadataValue.md(to_markdown(draw_adaptation(rows)))
    return {"layer": picture, "gain": summarize(rows).sentence}


def draw_pictures(state: ModelState, key: str) -> dict[str, Any]:
    """Return pictures of monitoring, of which a partition is the newest."""
    from retrain_assets.reports.plots import draw_movers, draw_watched_drift, to_markdown

    table = state.table("monitoring")
    rows = state.tables.collect(state.tables.scan(table), table)
    request = decide(state.spec, state.situation())
    names = ("cause", "fired", "reason")
    causes = [{name: getattr(cause, name) for name in names} for cause in request.causes]
    moved = draw_movers(*read_sides(state, key), status.list_moved_columns(state))
    return {
        "drift": dg.MetadataValue.md(to_markdown(draw_watched_drift(rows))),
        "moved": dg.MetadataValue.md(to_markdown(moved)),
        "retrain": request.reason,
        "causes": checks.table(causes),
    }
