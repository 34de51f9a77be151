"""What the members of the adaptive layer predict for a partition: stored, or computed once.

Not here: what the layer makes of it (`adapt`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from retrain_assets.domain.adaptation.layer import MEMBERS, fill_roles
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.features.build import KEY, WEIGHT
from retrain_assets.domain.metrics.metrics import align_columns, align_labels
from retrain_assets.domain.model.estimator import predict
from retrain_assets.steps.decision import train
from retrain_assets.steps.features.build import describe_commit, read_features
from retrain_assets.steps.state import SOURCE, ModelState
from retrain_assets.stores.ledger import LedgerRow

# Of a table of predictions: what the newest version predicts, what the layer makes of it, by which
# state.
NEWEST, ADAPTED, STATE = "newest", "adapted", "layer_state"
PROBABILITIES = "probabilities"
# What older versions predict, as in the table of predictions; of multiclass only probabilities.
MEMBERS_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys((PARTITION, KEY, SOURCE), pl.String()),
    "model_version": pl.Int64(),
    train.PREDICTION_COLUMN: pl.Float64(),
    PROBABILITIES: pl.List(pl.Float64()),
}


@dataclass(frozen=True)
class Inputs:
    """The labels and outputs of one partition that the layer learns from.

    Args:
        outputs: Members' predictions, the newest first, as `predict_layer` takes them.
        labels: As `update_layer` takes them.
        weights: Row weights, if the model has them.
        classes: Of multiclass, the class of each column.
    """

    outputs: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None
    classes: tuple[str, ...]


def stack_outputs(
    outputs: Sequence[train.Output],
    labels: np.ndarray,
    weights: pl.Series | None,
    members: int = MEMBERS,
) -> Inputs:
    """Return what members predict for labelled rows, in the columns of the newest one's classes.

    Args:
        outputs: Of the members, the newest first; the oldest stands for missing ones.
        labels: Labels of the rows, as the target has them.
        weights: Their weights, if the model has them.
        members: How many the layer has.
    """
    stacked, classes = stack_values(outputs, members)
    places, _ = align_labels(labels, outputs[0].values, classes)
    return Inputs(
        stacked, places, weights.to_numpy().astype(float) if weights is not None else None, classes
    )


def stack_values(
    outputs: Sequence[train.Output], members: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return outputs as `predict_layer` takes them, and of multiclass the class of each column."""
    newest, classes = outputs[0], tuple[str, ...]()
    values = [output.values for output in outputs]
    if newest.values.ndim > 1:
        classes = tuple(newest.classes or ())
        values = [align_columns(item.values, item.classes or (), classes) for item in outputs]
    roles = fill_roles(range(len(values)), members)
    return np.stack([values[role] for role in roles], axis=1), classes


@dataclass(frozen=True)
class Place:
    """A partition that is to move the layer.

    Args:
        key: The partition.
        source: Digest of what its features were built from.
        arrived: The partitions that had arrived before it.
        members: The rows of the versions that were in production until it came, the newest first.
        made_from: Digest of all that the state after it depends on.
    """

    key: str
    source: str
    arrived: Sequence[str]
    members: Sequence[LedgerRow]
    made_from: str


class MemberOutputs:
    """The outputs of members for some partitions: stored, or computed where these are missing.

    Args:
        state: The model.
        keys: The partitions.
        load: A function that returns a version's pipeline of its number and digest.
        features: Rows of their features; the stored ones by default.
    """

    def __init__(
        self,
        state: ModelState,
        keys: Sequence[str],
        load: Callable[[int, str], train.Model],
        features: pl.DataFrame | None = None,
    ) -> None:
        self.state, self.load = state, load
        self.features = read_features(state, keys) if features is None else features
        newest = _read_newest(state, keys)
        older = state.tables.read(state.table("member_predictions"), keys, MEMBERS_SCHEMA)
        self.newest, self.older = (rows.sort(PARTITION, KEY) for rows in (newest, older))
        self.computed: list[pl.DataFrame] = []

    def collect(self, place: Place) -> Inputs | None:
        """Return the labelled rows of a partition; None where they cannot move the layer.

        That is where a member was trained on the partition, or where the newest needs features
        that the YAML no longer makes.
        """
        outputs = self.list_outputs(place)
        return self.select_labelled(place, outputs) if outputs else None

    def list_outputs(self, place: Place, newest: train.Output | None = None) -> list[train.Output]:
        """Return what members predict for all rows of a partition, the newest first.

        Args:
            place: The partition.
            newest: What the newest one predicts, if that is known already.

        Returns:
            None at all where the layer has nothing to say: a member was trained on the partition,
            or the newest needs features that the YAML no longer makes.
        """
        if not place.members or any(
            item.data_range[0] <= place.key <= item.data_range[1] for item in place.members
        ):
            return []
        rows = self.features.filter(pl.col(PARTITION) == place.key)
        first = newest or self._get_output(place, place.members[0], rows)
        if first is None:
            return []
        older = (self._get_output(place, member, rows) for member in place.members[1:])
        return [first, *(output for output in older if output)]

    def select_labelled(self, place: Place, outputs: Sequence[train.Output]) -> Inputs | None:
        """Return what the layer takes of the rows of a partition that have a label."""
        rows, spec = self.features.filter(pl.col(PARTITION) == place.key), self.state.spec
        labelled = rows[spec.target.column].is_not_null()
        if not labelled.any():
            return None
        usable = [replace(item, values=item.values[labelled.to_numpy()]) for item in outputs]
        table = rows.filter(labelled)
        weights = table[WEIGHT] if spec.weight else None
        labels = table[spec.target.column].to_numpy()
        return stack_outputs(usable, labels, weights, spec.layer.members)

    def _get_output(
        self, place: Place, member: LedgerRow, rows: pl.DataFrame
    ) -> train.Output | None:
        multiclass = self.state.spec.target.kind == "multiclass"
        older = self.older.filter(pl.col(SOURCE) == place.source)
        for table in (self.newest, older):
            same = pl.col("model_version") == member.version
            part = table.filter(pl.col(PARTITION) == place.key, same)
            if part.height and part[KEY].equals(rows[KEY]):
                values = part[PROBABILITIES if multiclass else train.PREDICTION_COLUMN]
                # Stored outputs do not name the classes of a version.
                pipeline = self.load(member.version, member.sha256) if multiclass else None
                return train.Output(pipeline, _to_array(values), train.get_classes(pipeline))
        return self._compute(place, member, rows)

    def _compute(self, place: Place, member: LedgerRow, rows: pl.DataFrame) -> train.Output | None:
        pipeline = self.load(member.version, member.sha256)
        if train.list_missing_features(self.state, pipeline):
            return None
        features = rows.select(self.state.feature_names)
        values = predict(pipeline, self.state.spec.target.kind, features, strict=False)
        column = train.PREDICTION_COLUMN if values.ndim == 1 else PROBABILITIES
        output = pl.Series(column, values.tolist(), MEMBERS_SCHEMA[column])
        table = rows.select(PARTITION, KEY, pl.lit(place.source).alias(SOURCE)).with_columns(
            output, model_version=pl.lit(member.version, pl.Int64)
        )
        self.computed.append(table)
        return train.Output(pipeline, values, train.get_classes(pipeline))

    def store(self, run_id: str) -> None:
        """Store what was computed beside what was stored of the same partitions."""
        if not self.computed:
            return
        empty = pl.DataFrame(schema=MEMBERS_SCHEMA)
        computed = pl.concat([empty, *self.computed], how="diagonal")
        keys = computed[PARTITION].unique().sort().to_list()
        identity = (PARTITION, KEY, "model_version")
        older = self.older.filter(pl.col(PARTITION).is_in(keys)).join(
            computed, on=identity, how="anti"
        )
        rows, table = pl.concat([older, computed]), self.state.table("member_predictions")
        self.state.tables.replace(table, rows, keys, describe_commit(run_id, keys))


def _read_newest(state: ModelState, keys: Sequence[str]) -> pl.DataFrame:
    """Return stored predictions as the newest version made them, without the layer."""
    rows = state.tables.read(state.table("predictions"), keys, MEMBERS_SCHEMA)
    column = PROBABILITIES if state.spec.target.kind == "multiclass" else train.PREDICTION_COLUMN
    if NEWEST in rows.columns:
        rows = rows.with_columns(pl.coalesce(NEWEST, column).alias(column))
    return rows


def read_served(state: ModelState, key: str) -> np.ndarray:
    """Return what was served of the labelled rows of a partition, in the order of a sample."""
    rows = state.tables.read(state.table("predictions"), [key]).drop_nulls("label").sort(KEY)
    several = state.spec.target.kind == "multiclass"
    return _to_array(rows[PROBABILITIES if several else train.PREDICTION_COLUMN])


def _to_array(values: pl.Series) -> np.ndarray:
    """Return stored predictions, NaN where a model gave none."""
    if values.dtype != pl.List:
        return values.cast(pl.Float64).fill_null(math.nan).to_numpy()
    width = int(values.list.len().max() or 1)  # type: ignore[arg-type]
    return np.array([[math.nan] * width if row is None else row for row in values.to_list()])
