"""Describe for people what a run did: tables, numbers that the UI draws over time, pictures.

Not here: the numbers.
"""

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import dagster as dg
import polars as pl

from retrain_assets.domain.data.rules import PARTITION, column_limits
from retrain_assets.domain.decision.triggers import decide
from retrain_assets.errors import mask_password
from retrain_assets.orchestration import checks
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
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


# Of columns that the platform adds to a table.
COLUMNS = {
    PARTITION: "The partition that the row belongs to.",
    "_key": "The values of the dataset's `key`, joined by |.",
    "_source": "A digest of the data and settings that the partition was built from.",
    "_file": "The landing file.",
    "_line": "The line or row of the file, from 1.",
    "_reasons": "Each rule that the row breaks, with the value.",
    "_row": "The row as it was delivered; personal values are masked.",
    "model_version": "The version in production when the partition arrived.",
    "in_sample": "Whether that version was trained on the partition.",
    "prediction": "The probability of label 1, the most probable class, or the number.",
    "label": "The true outcome, if it is known.",
    "role": "What is watched: feature, prediction, target, performance and so on.",
    "measure": "The measure of drift, or the metric.",
    "statistic": "The value of the measure over the window.",
    "threshold": "From here on there is an alert.",
    "baseline": "The same value in the reference, or at the promotion.",
    "alert": "Whether the threshold is reached.",
    "low": "The lower end of the interval of the statistic.",
    "high": "The upper end of the interval of the statistic.",
    "effect": "What moved, in words.",
    "window_from": "The first partition of the window.",
    "window_to": "The last partition of the window.",
}


def describe_table(
    tables: Tables,
    table: str,
    texts: Mapping[str, str] = MappingProxyType({}),
    limits: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return name, place, version, rows and columns of a table as it is now.

    Args:
        tables: All tables.
        table: Its name.
        texts: What columns mean, besides those of `COLUMNS`.
        limits: What values may be, as `column_limits` returns it.
    """
    summary = tables.describe(table)
    schema, texts = summary.schema if summary else {}, COLUMNS | dict(texts)
    listed = [
        dg.TableColumn(name, str(dtype), texts.get(name), _constrain(limits.get(name, {})))
        for name, dtype in schema.items()
    ]
    return {
        "dagster/table_name": table,
        "dagster/uri": tables.uri(table),
        "dagster/row_count": summary.rows if summary else 0,
        "dagster/column_schema": dg.TableSchema(listed),
        "delta_version": summary.version if summary else 0,
        **({"columns_widened": summary.widened} if summary and summary.widened else {}),
    }


def describe_dataset(tables: Tables, spec: DatasetSpec) -> list[dict[str, Any]]:
    """Return what `describe_table` does of accepted rows, as the YAML has them, and others."""
    columns = spec.columns.items()
    texts = {name: column.description for name, column in columns if column.description}
    accepted = describe_table(tables, f"{spec.name}/dataset", texts, column_limits(spec))
    return [accepted, describe_table(tables, f"{spec.name}/quarantine")]


def describe_features(tables: Tables, spec: ModelSpec) -> dict[str, Any]:
    """Return what `describe_table` does of a model's features, with its `descriptions`."""
    target = spec.target
    text = f"The target: {target.expression or f'the column {target.column}'}."
    return describe_table(
        tables, f"{spec.name}/features", {target.column: text, **spec.descriptions}
    )


def _constrain(limits: Mapping[str, Any]) -> dg.TableColumnConstraints:
    """Return limits on a value as the UI shows them."""
    words = {"ge": "at least {}", "le": "at most {}", "pattern": "matches {}"}
    values = {name: f"{x:g}" if isinstance(x, float) else x for name, x in limits.items()}
    sentences = [text.format(values[name]) for name, text in words.items() if name in limits]
    sentences += [f"one of {', '.join(map(str, limits['enum']))}"] if "enum" in limits else []
    return dg.TableColumnConstraints(nullable="required" not in limits, other=sentences)


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
    from retrain_assets.reports.monitoring_plots import draw_adaptation
    from retrain_assets.reports.page import to_markdown

    rows = read_losses(state)
    picture = dg.MetadataValue.md(to_markdown(draw_adaptation(rows)))
    return {"layer": picture, "gain": summarize(rows).sentence}


def draw_pictures(state: ModelState, key: str) -> dict[str, Any]:
    """Return pictures of monitoring, of which a partition is the newest."""
    from retrain_assets.reports.monitoring_plots import draw_movers, draw_watched_drift
    from retrain_assets.reports.page import to_markdown

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
