"""What each week cost: by the first version for ever, by the newest alone, and with the layer.

Not here: how the adaptive layer learns, and drawing its gain.
"""

from typing import Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.metrics.metrics import block_values, get_gate_metric
from retrain_assets.steps.decision import train
from retrain_assets.steps.monitoring.adapt import read_losses
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import IN_PRODUCTION

COLUMNS = ("never", "retraining", "layer")
AS_THE_LAYER = ("log_loss", "mae")  # metrics whose mean over rows the layer stores as its loss


def compare_weeks(state: ModelState) -> list[dict[str, Any]]:
    """Return the mean loss of the partitions of each week whose labels have moved the layer.

    Returns:
        The first partition as `from`; the loss of the version that was promoted first, of the
        newest version alone, and of the layer. Nothing without a layer, or with another metric.
    """
    losses, history = read_losses(state), state.ledger.read()
    if losses.is_empty() or state.spec.gate.metric not in AS_THE_LAYER:
        return []
    first = next(row for row in history.rows if row.action in IN_PRODUCTION)
    rows = train.sample(state, losses[PARTITION].to_list())
    output = train.predict_sample(state, state.registry.load(first.version, first.sha256), rows)
    inputs = rows.labels, output.values, rows.partitions, output.classes
    values = block_values(get_gate_metric(state.spec.gate), *inputs)
    never = values.select(pl.col("block").alias(PARTITION), pl.col("value").alias("never"))
    table = losses.join(never, on=PARTITION).sort(PARTITION)
    week = pl.int_range(pl.len()) // state.dataset.partition.per_week
    renamed = table.rename({"loss_newest": "retraining", "loss_layer": "layer"})
    means = renamed.group_by(week.alias("week"), maintain_order=True).agg(
        pl.col(PARTITION).first().alias("from"), pl.col(*COLUMNS).mean()
    )
    return means.drop("week").to_dicts()
