"""Compare production with the version before it on each new mature partition.

Not here: how strong evidence is computed, and messages to people.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.metrics import intervals, metrics
from retrain_assets.domain.model.estimator import are_finite
from retrain_assets.specs.base import number_of
from retrain_assets.steps.decision import judge, promote
from retrain_assets.steps.features.build import read_features
from retrain_assets.steps.monitoring import in_service
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
    """The comparison with the version before, on the partitions since a promotion.

    Args:
        production: The version in production.
        before: The version before it.
        partitions: On how many partitions the versions were compared.
        loss: By how much production was worse, as a mean over these; below zero when better.
        evidence: How much likelier the losses are if production is worse than if it is not.
        needed: The evidence from which on production counts as worse.
        metric: The metric of the losses.
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
        """Return True if production is shown to be worse than the version before it."""
        return self.evidence >= self.needed

    @property
    def sentence(self) -> str:
        """Return the comparison in words."""
        worse = "worse" if self.loss > 0 else "better"
        chance = "may be chance, and nothing is rolled back for it"
        verdict = "is shown well enough to roll back" if self.is_worse else chance
        evidence = f" (evidence {self.evidence:.3g}, needed {self.needed:.3g})"
        if self.loss <= 0 and not self.is_worse:
            verdict, evidence = "is no reason to roll back", ""
        return (
            f"on {number_of(self.partitions, 'partition')} since its promotion, version "
            f"{self.production} is {worse} than version {self.before} before it by "
            f"{abs(self.loss):.3g} in {self.metric}, which {verdict}{evidence}"
        )


def watch(state: ModelState, run_id: str) -> WatchSummary | None:
    """Compare the versions on new partitions since a promotion, and sum up all of them."""
    row = _find_promotion(state)
    if row is None:
        return None
    stored, sources = set(_read_losses(state, row)[PARTITION]), _list_watched(state, row)
    if fresh := [key for key in sources if key not in stored]:
        source = pl.col(PARTITION).replace_strict(sources, return_dtype=pl.String).alias(SOURCE)
        losses = _compute_losses(state, row, fresh).with_columns(source)
        state.tables.replace(state.table("watch"), losses, fresh, {"run_id": run_id})
    return summarize(state)


def summarize(state: ModelState) -> WatchSummary | None:
    """Sum up the compared partitions.

    Returns:
        None where nothing is watched: `watch: off`, no version before, or production was rolled
        back to.
    """
    row = _find_promotion(state)
    if row is None:
        return None
    losses = _read_losses(state, row)["loss"].drop_nulls().to_list()
    needed = intervals.required_evidence(judge.get_gate(state).confidence)
    evidence = intervals.judge_by_weeks(losses, needed, week=state.dataset.partition.per_week)
    return WatchSummary(
        production=row.version,
        before=row.previous or 0,
        partitions=len(losses),
        loss=sum(losses) / len(losses) if losses else 0.0,
        evidence=evidence.value,
        needed=evidence.needed,
        metric=state.spec.gate.metric,
    )


def act(state: ModelState, summary: WatchSummary | None) -> LedgerRow | None:
    """Roll back where production is shown to be worse and the YAML says `watch: auto`."""
    if summary is None or not summary.is_worse or state.spec.watch != "auto":
        return None
    return promote.roll_back(state, summary.before, summary.sentence, BY)


def _find_promotion(state: ModelState) -> LedgerRow | None:
    row = state.ledger.read().production
    off = state.spec.watch == "off" or row is None or row.action not in WATCHED or not row.previous
    return None if off else row


def _list_watched(state: ModelState, row: LedgerRow) -> dict[str, str]:
    """Return mature partitions since the promotion, with the digest of what each was built from."""
    sources = state.sources()
    return {key: sources[key] for key in state.mature() if key > row.seen_through}


def _read_losses(state: ModelState, row: LedgerRow) -> pl.DataFrame:
    """Return the losses of partitions that have not changed since they were compared, in order."""
    same = (pl.col("production") == row.version) & (pl.col("before") == row.previous)
    sources = pl.DataFrame(
        [*_list_watched(state, row).items()],
        {PARTITION: pl.String, SOURCE: pl.String},
        orient="row",
    )
    losses = state.stored("watch", SCHEMA, same)
    return losses.join(sources, on=[PARTITION, SOURCE], how="semi").sort(PARTITION)


def _compute_losses(state: ModelState, row: LedgerRow, keys: list[str]) -> pl.DataFrame:
    """Return by how much production is worse on each partition; null where that is undefined."""
    metric, target = metrics.get_gate_metric(state.spec.gate), state.spec.target
    rows = read_features(state, keys).drop_nulls(target.column)
    outputs, classes, without = [], [], set[int | None]()
    digests = {decision.version: decision.sha256 for decision in state.ledger.read().rows}
    features = rows.select(state.feature_names)
    predict_by = in_service.predict_once(state, features)
    for version in (row.version, row.previous or 0):
        output = predict_by(version, digests[version])
        if output is None:
            return pl.DataFrame(schema=SCHEMA).drop(SOURCE)
        without.add(version)
        inputs = features, rows[PARTITION], output, without
        served = in_service.put_under(state, *inputs, predict_by)
        outputs.append(served.values)
        classes.append(output.classes)
    usable = np.logical_and(*map(are_finite, outputs))
    rows = rows.filter(pl.Series(usable))
    labels, blocks = rows[target.column].to_numpy(), rows[PARTITION]
    now, before = (
        metrics.block_values(metric, labels, output[usable], blocks, names)
        for output, names in zip(outputs, classes, strict=True)
    )
    return now.join(before, on="block", suffix="_before").select(
        pl.col("block").alias(PARTITION),
        pl.lit(row.version, pl.Int64).alias("production"),
        pl.lit(row.previous, pl.Int64).alias("before"),
        metric.gain(pl.col("value_before"), pl.col("value")).alias("loss"),
    )
