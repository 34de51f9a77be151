"""From one prediction to all that it came from: data, model, code, decision and, later, its label.

Not here: printing it.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.features.build import KEY
from retrain_assets.steps.decision.train import PREDICTION_COLUMN
from retrain_assets.steps.monitoring.adapt import SCHEMA
from retrain_assets.steps.monitoring.members import ADAPTED, NEWEST, PROBABILITIES, STATE
from retrain_assets.steps.state import ModelState, landing_files
from retrain_assets.stores.ledger import IN_PRODUCTION

RECORDED = (
    *("features_version", "spec_digest", "code_digest", "lock_digest", "checkout"),
    *("seed", "train_from", "train_to"),
)
DECIDED = ("action", "time", "as_of", "reason", "because", "by", "previous")


def lineage(state: ModelState, partition: str, key: str) -> dict[str, dict[str, Any]]:
    """Return what one stored prediction came from.

    Args:
        state: The model.
        partition: The prediction's partition.
        key: Its key: the values of the dataset's key joined by `|`, see `row_key`.

    Returns:
        `prediction` (with `label`, null until it is known), `layer` (members and state of the
        adaptive layer, if it was learned), `files` it was read from with their digests, `model`,
        `datasets` with the versions the model was trained on, and `ledger`.

    Raises:
        LookupError: There is no such prediction; the message shows a key there is.
        StorageError: Nothing was predicted yet.
    """
    table = state.table("predictions")
    predictions = state.tables.read(table, [partition])
    rows = predictions.filter(pl.col(KEY) == key).to_dicts()
    if not rows:
        keys = predictions[KEY]
        none = f"it has none, since {_explain_lack(state, partition)}"
        example = f"its keys are such as {keys[0]!r}" if len(keys) else none
        raise LookupError(
            f"model {state.spec.name}: no prediction {key!r} in partition {partition!r}: {example}"
        )
    version = state.registry.version(rows[0]["model_version"])
    history = state.ledger.read()
    number = max(
        place
        for place, row in enumerate(history.rows)
        if row.version == version.version
        and row.action in IN_PRODUCTION
        and row.seen_through < partition
    )
    row = history.rows[number]
    accepted = (pl.col(PARTITION) == partition) & pl.col("refusal").is_null()
    files = landing_files(state.tables, state.dataset.name, accepted)
    return {
        "prediction": rows[0],
        **_trace_layer(state, rows[0]),
        "files": dict(files.select("file", "sha256").iter_rows()),
        "model": {
            "version": version.version,
            "sha256": row.sha256,
            "mlflow_run": version.run_id,
            **{name: version.tags.get(name) for name in RECORDED},
        },
        "datasets": dict(row.datasets),
        "ledger": {
            "number": number,
            "sha256": history.digests[number],
            **{name: getattr(row, name) for name in DECIDED},
        },
    }


def _explain_lack(state: ModelState, partition: str) -> str:
    """Return why a partition has no prediction."""
    if partition not in state.count_rows():
        return f"{state.dataset.name} has no accepted rows of it"
    if state.ledger.read().production_at(partition) is None:
        return "no version was in production when it came: only later partitions are predicted"
    return f"it is not built yet: see `retrain plan {state.spec.name}`"


def _trace_layer(state: ModelState, row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by what the adaptive layer made, or would have made, a prediction."""
    if row.get(STATE) is None:
        return {}
    columns = "made_from", "members", "rows"
    rows = state.stored("adaptation", SCHEMA, pl.col(PARTITION) == row[STATE]).select(columns)
    record = rows.to_dicts()[0] if rows.height else dict.fromkeys(columns)
    members = state.ledger.read().members_at(row[PARTITION])[: state.spec.layer.members]
    return {
        "layer": {
            "served": row[NEWEST] != row[ADAPTED] and _is_output(row, ADAPTED),
            "members": [member.version for member in members],
            "state": row[STATE],
            **{f"state_{name}": value for name, value in record.items()},
        }
    }


def _is_output(row: Mapping[str, Any], name: str) -> bool:
    """Return whether what was served is this column."""
    return bool(row.get(PROBABILITIES, row[PREDICTION_COLUMN]) == row[name])
