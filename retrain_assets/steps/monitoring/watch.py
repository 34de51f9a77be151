"""The watch: production and the version before it on each new mature partition.

Not here: how sure the evidence is, and telling people.
"""

from dataclasses import dataclass

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.metrics.intervals import compute_evidence, required_evidence
from retrain_assets.domain.metrics.metrics import block_values, get_gate_metric
from retrain_assets.domain.model.estimator import predict
from retrain_assets.steps.decision.promote import roll_back
from retrain_assets.steps.decision.train import get_classes, list_missing_features
from retrain_assets.steps.features.build import read_features
from retrain_assets.steps.state import SOURCE, ModelState
from retrain_assets.stores.ledger import LedgerRow

WATCHED = ("promote", "approve")
BY = "the watch"
SCHEMA: dict[str, pl.DataType] = {
    PARTITION: pl.String(),
    "production": pl.Int64(),
    "before": pl.Int64(),
    "loss": pl.Float64(),
    SOURCE: pl.String(),
}


@dataclass(frozen=True)
class WatchSummary:
    """What the watch has seen since a promotion.

    Args:
        production: The version in production.
        before: The one before it.
        partitions: How many both have been judged on.
        loss: By how much production was worse, as a mean over these; below zero when better.
        evidence: How much likelier that is if it is worse than if it is not.
        needed: Evidence from which on it is taken to be.
        metric: By which.
    """

    production: int
    before: int
    partitions: int
    loss: float
    evidence: float
    needed: float
    metric: str

    @property
    def is_worse(self) -> bool:
        """Whether production is shown to be worse than the version before it."""
        return self.evidence >= self.needed

    @property
    def said(self) -> str:
        """A sentence."""
        worse = "worse" if self.loss > 0 else "better"
        return (
            f"version {self.production} is {worse} than version {self.before} before it by "
            f"{abs(self.loss):.3g} in {self.metric} on {self.partitions} partitions since, "
            f"evidence {self.evidence:.3g} of {self.needed:.3g} needed"
        )


def watch(state: ModelState, run_id: str) -> WatchSummary | None:
    """Judge the partitions that are new since a promotion, and say what all of them come to.

    Args:
        state: The model.
        run_id: Written beside the commit.
    """
    row = _find_promotion(state)
    if row is None:
        return None
    judged, wanted = set(_read_losses(state, row)[PARTITION]), _list_watched(state, row)
    if fresh := [key for key in wanted if key not in judged]:
        found = _compute_losses(state, row, fresh).with_columns(
            pl.col(PARTITION).replace_strict(wanted, return_dtype=pl.String).alias(SOURCE)
        )
        state.tables.replace(state.table("watch"), found, fresh, {"run_id": run_id})
    return summarize(state)


def summarize(state: ModelState) -> WatchSummary | None:
    """What the judged partitions come to.

    Returns:
        None where nothing is watched: `watch: off`, no version before, or production was rolled
        back to.
    """
    row = _find_promotion(state)
    if row is None:
        return None
    losses = _read_losses(state, row)["loss"].drop_nulls().to_list()
    return WatchSummary(
        production=row.version,
        before=row.previous or 0,
        partitions=len(losses),
        loss=sum(losses) / len(losses) if losses else 0.0,
        evidence=float(max(compute_evidence(losses), default=1.0)),
        needed=required_evidence(state.spec.gate.confidence),
        metric=state.spec.gate.metric,
    )


def act(state: ModelState, found: WatchSummary | None) -> LedgerRow | None:
    """Roll back where production is shown to be worse and the YAML says `watch: auto`."""
    if found is None or not found.is_worse or state.spec.watch != "auto":
        return None
    return roll_back(state, found.before, found.said, BY)


def _find_promotion(state: ModelState) -> LedgerRow | None:
    row = state.ledger.read().production
    off = state.spec.watch == "off" or row is None or row.action not in WATCHED or not row.previous
    return None if off else row


def _list_watched(state: ModelState, row: LedgerRow) -> dict[str, str]:
    """Mature partitions since the promotion, each with the digest of what it was built from."""
    sources = state.sources()
    return {key: sources[key] for key in state.mature() if key > row.seen_through}


def _read_losses(state: ModelState, row: LedgerRow) -> pl.DataFrame:
    """Partitions that were judged as they are now, in order."""
    wanted = _list_watched(state, row)
    own = (pl.col("production") == row.version) & (pl.col("before") == row.previous)
    found = state.stored("watch", SCHEMA, own)
    now = [
        wanted.get(key) == made_from for key, made_from in found.select(PARTITION, SOURCE).rows()
    ]
    return found.filter(pl.Series(now, dtype=pl.Boolean)).sort(PARTITION)


def _compute_losses(state: ModelState, row: LedgerRow, keys: list[str]) -> pl.DataFrame:
    """By how much production is worse on each partition; null where that is undefined."""
    metric, target = get_gate_metric(state.spec.gate), state.spec.target
    rows = read_features(state, keys).drop_nulls(target.column)
    labels, blocks = rows[target.column].to_numpy(), rows[PARTITION]
    values = []
    digests = {found.version: found.sha256 for found in state.ledger.read().rows}
    for version in (row.version, row.previous or 0):
        pipeline = state.registry.load(version, digests[version])
        if list_missing_features(state, pipeline):
            return pl.DataFrame(schema=SCHEMA).drop(SOURCE)
        output = predict(pipeline, target.kind, rows.select(state.feature_names))
        values.append(block_values(metric, labels, output, blocks, get_classes(pipeline)))
    now, before = values
    return now.join(before, on="block", suffix="_before").select(
        pl.col("block").alias(PARTITION),
        pl.lit(row.version, pl.Int64).alias("production"),
        pl.lit(row.previous, pl.Int64).alias("before"),
        metric.gain(pl.col("value_before"), pl.col("value")).alias("loss"),
    )
