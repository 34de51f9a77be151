"""Store features and their profile for a range of partitions, each table in one commit.

Rows are built in batches of partitions and kept on disk, so that memory does not grow with the
range. Rows that lie far out of what production was trained on are marked as they are built.
Not here: computing features of rows, predicting and watching.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.data.values import null_infinite
from retrain_assets.domain.drift.profile import build_profile, merge
from retrain_assets.domain.drift.training_match import Finding, find_idle, find_mismatches
from retrain_assets.domain.features.build import KEY, FeatureError, RefusedRow, join_parts
from retrain_assets.domain.model.outliers import MAX_ROWS, OUTLIER, Detector, fit_detector
from retrain_assets.domain.windows import take_through
from retrain_assets.errors import PermanentError
from retrain_assets.steps.features.rows import Rows
from retrain_assets.steps.state import SOURCE, WITHOUT, ModelState, group_by_production
from retrain_assets.stores.ledger import History
from retrain_assets.stores.tables.data_files import Spill


class NotReadyError(PermanentError):
    """None of the partitions asked for can be built yet."""


@dataclass(frozen=True)
class BuildResult:
    """The partitions that a step stored, their rows, and the version of its commit."""

    partitions: tuple[str, ...]
    rows: pl.DataFrame
    version: int

    @property
    def count(self) -> int:
        """Return how many rows were stored."""
        return self.rows.height


@dataclass(frozen=True)
class FeaturesResult:
    """The counts of stored features, which may be too many rows to keep.

    Args:
        partitions: Those that were built.
        summary: A row a partition: `rows`, mean of the target where that is a number, and share of
            outliers, null where none are looked for.
        mismatches: Where rows do not match those that production was trained on.
        refused: Rows that are left out, since their features cannot be computed.
        version: The version of the table after the commit.
    """

    partitions: tuple[str, ...]
    summary: pl.DataFrame
    mismatches: list[Finding]
    refused: list[RefusedRow]
    version: int

    @property
    def count(self) -> int:
        """Return how many rows were stored."""
        return int(self.summary["rows"].sum())


def list_ready(
    state: ModelState, partitions: Sequence[str], sources: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the partitions whose datasets are complete, `sources` being those of the state.

    Raises:
        NotReadyError: None is.
    """
    keys = tuple(key for key in partitions if key in sources)
    if not keys:
        raise NotReadyError(
            f"model {state.spec.name}: no partition from {partitions[0]} to {partitions[-1]} has "
            f"landed in {', '.join([state.dataset.name, *state.lookups])}: ingest them first"
        )
    return keys


def build_features(state: ModelState, partitions: Sequence[str], run_id: str) -> FeaturesResult:
    """Build the features of a range."""
    features = state.table("features")
    base = state.tables.version(features)
    # Taken before any row is read: what changes meanwhile has another digest and is built again.
    sources = state.sources()
    keys = list_ready(state, partitions, sources)
    stored = state.tables.scan(features).collect_schema() if base is not None else pl.Schema()
    window = take_through(tuple(sources), keys[-1], state.spec.windows.current)
    rows, summary = Rows(state), _Summary(state, window)
    refused: list[RefusedRow] = []
    marker = OutlierMarker(rows, summary.ledger) if state.spec.outliers else None
    with Spill() as spill:
        for built, failed in state.engine.map(rows.build, rows.batches(keys)):
            refused += failed
            # A function that gave no value gave no type either.
            untyped = {name for name, dtype in built.schema.items() if dtype == pl.Null}
            typed = built.cast({name: stored[name] for name in untyped & stored.keys()})
            table = marker.mark(typed) if marker else typed
            summary.add(table)
            digests = pl.col(PARTITION).replace_strict(sources, return_dtype=pl.String)
            spill.add(table.with_columns(digests.alias(SOURCE)))
        empty = _list_empty(state, summary.parts, refused)
        sources_of_empty = json.dumps({key: sources[key] for key in empty})
        commit = describe_commit(run_id, keys) | ({WITHOUT: sources_of_empty} if empty else {})
        joined = join_parts(spill.parts(), state.spec)
        version = state.tables.replace(features, joined, keys, commit, base=base)
    mismatches = summary.find_mismatches(keys)
    return FeaturesResult(keys, pl.concat(summary.parts), mismatches, refused, version)


def _list_empty(
    state: ModelState,
    parts: Sequence[pl.DataFrame],
    refused: list[RefusedRow],
) -> set[str]:
    """Return the partitions of which every row is refused.

    Raises:
        FeatureError: None has.
    """
    filled = {key for part in parts for key in part[PARTITION]}
    if not filled and refused:
        row = refused[0]
        raise FeatureError(
            f"model {state.spec.name}: features of all rows fail, such as those of row "
            f"{row['key']} of partition {row['partition']}: {row['reason']}"
        )
    return {row["partition"] for row in refused}.difference(filled)


def build_profiles(state: ModelState, partitions: Sequence[str], run_id: str) -> BuildResult:
    """Summarise features and target, a row per partition and column."""
    name = state.table("profile")
    base, keys = state.tables.version(name), list_ready(state, partitions, state.sources())
    batches = Rows(state).batches(keys)
    rows = pl.concat(state.engine.map(partial(_build_profile, state), batches))
    commit = describe_commit(run_id, keys)
    return BuildResult(keys, rows, state.tables.replace(name, rows, keys, commit, base=base))


def _build_profile(state: ModelState, keys: Sequence[str]) -> pl.DataFrame:
    table = read_features(state, keys)
    sources = table.select(PARTITION, SOURCE).unique()
    return build_profile(table).join(sources, on=PARTITION, maintain_order="left")


def describe_commit(run_id: str, keys: Sequence[str]) -> dict[str, str]:
    """Return what is written beside each commit."""
    return {"run_id": run_id, "partitions": f"{keys[0]}..{keys[-1]}"}


def read_features(state: ModelState, keys: Sequence[str]) -> pl.DataFrame:
    """Read rows of the features table in a fixed order."""
    # Tables of earlier versions hold numbers that are not finite.
    return null_infinite(state.tables.read(state.table("features"), keys).sort(PARTITION, KEY))


class _Summary:
    """Sums up rows as they are built, one batch at a time."""

    def __init__(self, state: ModelState, window: Sequence[str]) -> None:
        self.state, self.window, self.ledger = state, window, state.ledger.read()
        self.trained = cache(state.trained_profile)
        self.parts: list[pl.DataFrame] = []
        self.profiles: list[pl.DataFrame] = []
        self.mismatches: list[Finding] = []

    def add(self, table: pl.DataFrame) -> None:
        """Add a batch of whole partitions."""
        names, target = self.state.feature_names, self.state.spec.target.column
        outliers = pl.col(OUTLIER) if OUTLIER in table.columns else pl.lit(None, pl.Boolean)
        self.parts.append(
            table.group_by(PARTITION, maintain_order=True).agg(
                pl.len().alias("rows"),
                pl.col(target).cast(pl.Float64, strict=False).mean().alias("target"),
                outliers.mean().alias("outliers"),
            )
        )
        newest = table.filter(pl.col(PARTITION).is_in(self.window))
        self.profiles.append(build_profile(newest.select(PARTITION, *names)))
        for production, part in group_by_production(self.ledger, table):
            trained = self.trained(production.data_range) if production else {}
            self.mismatches += find_mismatches(part, names, trained)

    def find_mismatches(self, built: Sequence[str]) -> list[Finding]:
        """Return features without information in the newest window, and all mismatches."""
        earlier = self.state.profiles([key for key in self.window if key not in built])
        rows = pl.concat([earlier, *self.profiles], how="diagonal")
        return [*find_idle(self.state.feature_names, merge(rows)), *self.mismatches]


class OutlierMarker:
    """Marks rows, with one forest for each training window, fitted when it is first needed."""

    def __init__(self, rows: Rows, ledger: History) -> None:
        self.rows, self.ledger, self._detector = rows, ledger, cache(self._fit)

    def mark(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return sorted rows of features with `_outlier`: null where nothing was in production."""
        parts = [table.clear().with_columns(pl.lit(None, pl.Boolean).alias(OUTLIER))]
        for production, part in group_by_production(self.ledger, table):
            detector = self._detector(production.data_range) if production else None
            rows = part.select(self.rows.state.feature_names)
            far_out = detector.far_out(rows) if detector else pl.lit(None, pl.Boolean)
            parts.append(part.with_columns(far_out.alias(OUTLIER)))
        return pl.concat(parts)

    def _fit(self, data_range: tuple[str, str]) -> Detector | None:
        """Return None where no row of the training window is left."""
        state = self.rows.state
        outliers = state.spec.outliers
        keys = state.trained_on(tuple(self.rows.counts), data_range)
        if outliers is None or not sum(self.rows.counts[key] for key in keys):
            return None
        sampled = self.rows.sample(keys, MAX_ROWS).select(state.feature_names)
        return fit_detector(sampled, outliers.rate, state.spec.seed)
