"""The state of one model: which partitions have landed, are complete and monitored, with results.

Assets, sensors and the command line read it, so that all of them decide on the same facts. The
digests of data, code and packages are here too, since they tell whether a stored result is still
valid. Not here: writing, and deciding.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property, lru_cache
from hashlib import sha256
from itertools import groupby
from typing import Any, Self, TypeVar, cast

import polars as pl

from retrain_assets.domain.data.contract import FILES_SCHEMA, UNPLACED
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.situation import HeldCandidate, Production, Situation
from retrain_assets.domain.decision.triggers import count_refusals
from retrain_assets.domain.drift.profile import PROFILE_SCHEMA, ColumnProfile, drop_mixed, merge
from retrain_assets.domain.features.build import list_features
from retrain_assets.domain.features.lookup_partitions import LookupPartitions
from retrain_assets.domain.windows import (
    complete_partitions,
    mature_partitions,
    split_at_gaps,
    take_before,
    widen_ranges,
)
from retrain_assets.specs.base import number_of
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.counts import count_segments
from retrain_assets.steps.modules import code_of, is_of_the_user
from retrain_assets.stores.checkout import installed
from retrain_assets.stores.engine import IN_PROCESS, Engine, EngineSettingError
from retrain_assets.stores.ledger import History, Ledger, LedgerRow
from retrain_assets.stores.registry.registry import ModelRegistry
from retrain_assets.stores.tables.tables import Tables

Result = TypeVar("Result")
Read = Callable[[Tables, str], dict[str, Any]]
SOURCE = "_source"  # digest of what a partition was built from
WITHOUT = "without_features"  # in a commit of features: the sources of those with refused rows only
FILES = {**FILES_SCHEMA, "stamp": pl.String()}
MONITORING_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys((PARTITION, "role", "measure", "column"), pl.String()),
    **dict.fromkeys(("statistic", "threshold", "baseline"), pl.Float64()),
    "alert": pl.Boolean(),
    **dict.fromkeys(("low", "high"), pl.Float64()),
    "effect": pl.String(),
    "model_version": pl.Int64(),
    **dict.fromkeys(("window_from", "window_to", SOURCE), pl.String()),
}


def landed(tables: Tables, dataset: str) -> dict[str, str]:
    """Return a digest of the accepted files of each partition of a dataset, in order."""
    stored = _read_once(_landed, tables, f"{dataset}/files")
    return {key: content for key, (content, _) in stored.items()}


def _read_once(read: Read, tables: Tables, table: str) -> dict[str, Any]:
    """Return a copy of what was read of a table, read again if the table has changed."""
    identity = tables.identity(table)
    if identity is None:  # there is none, or it is in memory
        return read(tables, table)
    memory = _NEWEST.get((read, tables, table))
    if memory is None or memory[0] != identity:
        memory = _NEWEST[read, tables, table] = identity, read(tables, table)
    return {**memory[1]}


# The newest content of each table alone: with that of earlier versions, a code server would grow.
_NEWEST: dict[tuple[Read, Tables, str], tuple[tuple[str, int], dict[str, Any]]] = {}


def landed_rows(tables: Tables, dataset: str) -> dict[str, int]:
    """Return the number of accepted rows of each partition of a dataset, in order."""
    stored = _read_once(_landed, tables, f"{dataset}/files")
    return {key: rows for key, (_, rows) in stored.items()}


def _landed(tables: Tables, table: str) -> dict[str, tuple[str, int]]:
    placed = ~pl.col(PARTITION).str.starts_with(UNPLACED)
    files = landing_files(tables, table.partition("/")[0], pl.col("refusal").is_null() & placed)
    figures = pl.col("sha256").sort().str.join("+"), pl.col("accepted").sum()
    rows = files.group_by(PARTITION).agg(*figures).sort(PARTITION).iter_rows()
    return {key: (digest(content), count) for key, content, count in rows}


def landing_files(tables: Tables, dataset: str, condition: pl.Expr | bool = True) -> pl.DataFrame:
    """Return the results of landing files of a dataset, a row a file and partition (`FILES`)."""
    table = f"{dataset}/files"
    return tables.collect(tables.scan(table, FILES).filter(condition), table)


def _built(tables: Tables, table: str) -> dict[str, str]:
    rows = tables.scan(table, MONITORING_SCHEMA).select(PARTITION, SOURCE).unique()
    return dict(tables.collect(rows.sort(PARTITION), table).iter_rows())


@lru_cache(maxsize=16)
def _partitions_by_key(
    tables: Tables, versions: tuple[tuple[str, int | None], ...], columns: tuple[str, ...]
) -> dict[str, list[str]]:
    """Return the partitions of a second dataset that have a key of a partition of the first."""
    rows, joined = (
        tables.scan(f"{name}/dataset", version=version).select(PARTITION, *columns).unique()
        for name, version in versions
    )
    pairs = rows.join(joined.rename({PARTITION: "_joined"}), on=columns).unique(
        [PARTITION, "_joined"]
    )
    grouped = pairs.group_by(PARTITION).agg(pl.col("_joined").sort())
    return dict(tables.collect(grouped, f"{versions[1][0]}/dataset").iter_rows())


@dataclass(frozen=True)
class ModelState:
    """The read side of one model.

    Args:
        spec: The model.
        dataset: The dataset whose rows are predicted.
        lookups: The datasets joined to it, by name.
        tables: The tables of all of them.
        registry: The versions of the model.
        memo: Results that are shared between states, by name; None if they are not shared.
        engine: Computes items of steps that do not depend on each other.
    """

    spec: ModelSpec
    dataset: DatasetSpec
    lookups: Mapping[str, DatasetSpec]
    tables: Tables
    registry: ModelRegistry
    memo: dict[tuple[str, ...], Any] | None = None
    engine: Engine = IN_PROCESS

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process compute by itself what it is given, and refuse other code there."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"memo": None, "engine": IN_PROCESS}
        return _restore, (type(self), values, _digest_user_code(self.spec))

    @cached_property
    def ledger(self) -> Ledger:
        """Return the ledger of the model."""
        return Ledger(self.tables, self.spec.name)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the features of the spec."""
        return list_features(self.spec, self.dataset, self.lookups)

    @cached_property
    def lookup_partitions(self) -> dict[str, LookupPartitions]:
        """Return by lookup which of its partitions a partition sees."""
        return {
            name: LookupPartitions(lookup, self.dataset, self.lookups[name])
            for name, lookup in self.spec.lookups.items()
        }

    @cached_property
    def recipe(self) -> str:
        """Return the digest of what would be trained now."""
        return recipe_digest(self.spec)

    def once(self, name: tuple[str, ...], make: Callable[[], Result]) -> Result:
        """Return the shared result of that name; compute it if there is none."""
        memo = {} if self.memo is None else self.memo
        if name not in memo:
            memo[name] = make()
        return cast("Result", memo[name])

    def count_rows(self) -> dict[str, int]:
        """Return the number of the model's rows in each landed partition, in order."""
        counts, segment = landed_rows(self.tables, self.dataset.name), self.spec.segment
        if segment is None or not counts:
            return counts
        parts = count_segments(self.tables, self.dataset.name, segment.column)
        return {key: parts.get(segment.value, {}).get(key, 0) for key in counts}

    def table(self, name: str) -> str:
        """Return the full name of one of the model's tables."""
        return f"{self.spec.name}/{name}"

    def stored(
        self, name: str, schema: Mapping[str, pl.DataType], condition: pl.Expr | bool = True
    ) -> pl.DataFrame:
        """Return the rows of one of the model's tables that meet a condition."""
        table = self.table(name)
        return self.tables.collect(self.tables.scan(table, schema).filter(condition), table)

    def sources(self) -> dict[str, str]:
        """Return complete partitions in order, with a digest of all that their features depend on.

        A digest has two parts with a point between: the spec and the user's code of the features,
        and the data.
        """
        main = landed(self.tables, self.dataset.name)
        joined = {name: landed(self.tables, name) for name in self.spec.lookups}
        if not all(joined.values()):
            return {}
        arrivals = (
            (
                [key for key in main if joined[name].keys() >= {*reach.list_awaited(key)}],
                self.spec.lookups[name].lateness,
            )
            for name, reach in self.lookup_partitions.items()
            if reach.is_bounded
        )
        recipe, past = self._features_recipe, self._past(main)
        visible = {name: self._visible_partitions(name, joined[name]) for name in joined}
        sources = {}
        for key in complete_partitions(tuple(main), arrivals):
            lookups = (
                digest(*(joined[name][part] for part in list_visible(key)))
                for name, list_visible in visible.items()
            )
            sources[key] = f"{recipe}.{digest(main[key], *past.get(key, ()), *lookups)}"
        return sources

    @cached_property
    def _features_recipe(self) -> str:
        code = user_code_digest(self.spec.features.python)
        return digest(self.spec.features_recipe, code) if code else self.spec.features_recipe

    def rename_sources(self, sources: Mapping[str, str]) -> dict[str, str]:
        """Return `sources()` from those of another model of the same YAML."""
        recipe = self._features_recipe
        return {key: f"{recipe}.{data_digest(source)}" for key, source in sources.items()}

    def _visible_partitions(
        self, name: str, digests: Mapping[str, str]
    ) -> Callable[[str], Sequence[str]]:
        """Return a function of a partition to those of a lookup that its features depend on.

        Where rows may see all of a lookup, these are the partitions with a row for one of its keys.
        """
        reach, keys = self.lookup_partitions[name], tuple(digests)
        if reach.is_bounded or self.lookups[name].partition.by == "none":
            return lambda key: reach.list_visible(key, keys)
        datasets = (self.dataset.name, name)
        versions = [(item, self.tables.version(f"{item}/dataset")) for item in datasets]
        shared = _partitions_by_key(self.tables, (*versions,), tuple(self.spec.lookups[name].on))
        return lambda key: [part for part in shared.get(key, ()) if part in digests]

    def built(self) -> dict[str, str]:
        """Return the partitions that were monitored, with the digest of their sources."""
        table = self.table("monitoring")
        return _read_once(_built, self.tables, table)

    def mature(self) -> tuple[str, ...]:
        """Return partitions that are complete, not excluded and have final labels, in order.

        Partitions whose monitoring used older data are left out until they are rebuilt.
        """
        built, sources = self.built(), self.sources()
        return tuple(
            key
            for key in mature_partitions(tuple(sources), self.spec.labels.delay)
            if built.get(key) == sources[key] and not self.is_excluded(key)
        )

    def list_unbuilt(self, sources: Mapping[str, str]) -> list[str]:
        """Return those of `sources` that have no monitoring of their present data and spec."""
        built = self.built()
        return [key for key, source in sources.items() if built.get(key) != source]

    def list_ranges_to_build(
        self, sources: Mapping[str, str]
    ) -> Iterator[tuple[str, str, list[str]]]:
        """Yield the first and last partition of each range to build, and the changes in it.

        A range has all partitions whose window has a changed partition. It ends at a long gap,
        because what lies behind the gap looks back on it and can be built only later.
        """
        changed = self.list_unbuilt(sources)
        for first, last in widen_ranges(tuple(sources), changed, self.spec.monitoring_span):
            keys = [key for key in sources if first <= key <= last]
            part = split_at_gaps(keys, self.dataset.partition)[0]
            changes = [f"{key}:{sources[key]}" for key in changed if part[0] <= key <= part[-1]]
            yield part[0], part[-1], changes

    def is_excluded(self, key: str) -> bool:
        """Return whether the spec excludes a partition as bad."""
        return any(bad.first <= key <= bad.last for bad in self.spec.exclude)

    def trained_on(self, keys: Sequence[str], data_range: tuple[str, str]) -> tuple[str, ...]:
        """Return those of some partitions that a model trained on a range was trained on."""
        first, last = data_range
        return tuple(key for key in keys if first <= key <= last and not self.is_excluded(key))

    def profiles(self, keys: Collection[str]) -> pl.DataFrame:
        """Return stored summaries of some partitions, without columns that have changed in kind."""
        return drop_mixed(self.tables.read(self.table("profile"), keys, PROFILE_SCHEMA))

    def trained_profile(self, data_range: tuple[str, str]) -> dict[str, ColumnProfile]:
        """Return summaries of the features that a model was trained on, by name."""
        table = self.table("profile")
        rows = self.tables.scan(table, PROFILE_SCHEMA).select(pl.col(PARTITION).unique())
        keys = self.trained_on(self.tables.collect(rows, table)[PARTITION].to_list(), data_range)
        columns = merge(self.profiles(keys))
        columns.pop(self.spec.target.column, None)
        return columns

    def situation(self) -> Situation:
        """Return the facts that the triggering policy decides on."""
        history = self.ledger.read()
        row, decided = history.production, history.decided
        production = None
        if row is not None:
            production = Production(
                row.version, row.as_of, row.data_range[1], _as_now(row.recipe, self.recipe)
            )
        since = pl.col(PARTITION) > production.as_of if production else True
        monitored = self.stored("monitoring", MONITORING_SCHEMA, since)
        bad = [key for key in monitored[PARTITION].unique() if self.is_excluded(key)]
        mature, needed = self.mature(), self.spec.windows.needed
        return Situation(
            mature=mature,
            needed=needed,
            recipe=self.recipe,
            production=production,
            last_decision=history.decided.as_of if history.decided else None,
            last_recipe=_as_now(decided.recipe, self.recipe) if decided else None,
            last_gate=decided.gate if decided else None,
            monitoring=monitored.filter(~pl.col(PARTITION).is_in(bad)),
            pause=self.ledger.read_pause(),
            refusals=count_refusals((row.action, row.causes) for row in history.rows),
            held_candidate=_held(history, self.recipe),
            unbuilt=len(self.list_unbuilt(self.sources())) if len(mature) < needed else 0,
            shortage=self._explain_shortage(mature, has_version=row is not None),
        )

    def _explain_shortage(self, mature: Sequence[str], *, has_version: bool) -> str:
        """Return why a segment has too few rows to be trained on; empty where it has enough."""
        if (segment := self.spec.segment) is None:
            return ""
        counts, windows = self.count_rows(), self.spec.windows
        keys = windows.take(mature, windows.holdout)
        if (rows := sum(counts[key] for key in keys)) >= segment.min_rows:
            return ""
        is_pooled = segment.pooled and not has_version
        pooled = f": the pooled model {segment.pooled} answers" if is_pooled else ""
        return (
            f"{number_of(rows, 'row')} of {segment.column} {segment.value!r} in the windows, "
            f"`min_rows` asks for {segment.min_rows:,}{pooled}"
        )

    def _past(self, main: Mapping[str, str]) -> dict[str, list[str]]:
        """Return digests of the history of each partition, and whether its labels are used."""
        length, delay, keys = self.spec.features.history, self.spec.labels.delay, tuple(main)
        return {
            key: [f"{main[k]}:{k in mature_partitions(window, delay)}" for k in window]
            for key in (keys if length else ())
            for window in [take_before(keys, key, length)]
        }


def _restore(kind: type[ModelState], values: dict[str, Any], code: str) -> ModelState:
    """Return the state of a model that another process has sent.

    Raises:
        EngineSettingError: The code of the user is another one here.
    """
    state = kind(**values)
    if _digest_user_code(state.spec) != code:
        raise EngineSettingError(
            f"model {state.spec.name}: the Python code that its YAML names is missing or another "
            "one on a worker of RETRAIN_ENGINE: install the same project there"
        )
    return state


class Snapshot(ModelState):
    """The state of a model at one moment, for answers that need the same facts many times."""

    @classmethod
    def of(cls, state: ModelState) -> Self:
        """Return the snapshot of a state."""
        if isinstance(state, cls):
            return state
        return cls(**{field.name: getattr(state, field.name) for field in fields(state)})

    def sources(self) -> dict[str, str]:
        """Return what `ModelState.sources` does, read once."""
        return self._sources

    @cached_property
    def _sources(self) -> dict[str, str]:
        return super().sources()

    def built(self) -> dict[str, str]:
        """Return what `ModelState.built` does, read once."""
        return self._built

    @cached_property
    def _built(self) -> dict[str, str]:
        return super().built()


def group_by_production(
    history: History, table: pl.DataFrame
) -> Iterator[tuple[LedgerRow | None, pl.DataFrame]]:
    """Yield rows in order of partitions, by the production of when their partition arrived."""
    keys = table[PARTITION].unique(maintain_order=True)
    for production, served in groupby(keys, key=history.production_at):
        yield production, table.filter(pl.col(PARTITION).is_in(list(served)))


def data_digest(source: str) -> str:
    """Return the part of a partition's digest that is of its data."""
    return source.rpartition(".")[2]


def _held(history: History, recipe: str) -> HeldCandidate | None:
    """Return the version that was held last, if neither the spec nor production has changed since.

    If nothing is in production, a new candidate is tried at once.
    """
    row, now = history.decided, history.production
    if row is None or now is None or row.action != "hold" or not row.more:
        return None
    same = (row.previous, _as_now(row.recipe, recipe)) == (now.version, recipe)
    return HeldCandidate(row.version, row.more) if same else None


def _as_now(stored: str, now: str) -> str:
    """Return a stored recipe; if it was stored before code was a part of it, with today's code."""
    return now if now.partition(".")[0] == stored else stored


# The platform's modules that decide features, fits and predictions, and whatever these import of
# `domain`. Other layers hand on what is decided here, or are part of a candidate's name by their
# results: the spec, and the partitions that it is trained on.
DECIDING = (
    "retrain_assets.domain.features.lookup_partitions",  # which partitions of a lookup a row sees
    "retrain_assets.specs.base",  # how long `lag` and `tolerance` are
    "retrain_assets.steps.features.build",
    "retrain_assets.steps.features.rows",
    "retrain_assets.steps.decision.train",
)
FOLLOWED = "retrain_assets.domain."


def code_digest(spec: ModelSpec) -> str:
    """Return the digest of the code that decides features, fits and predictions of a model.

    Comments and docstrings do not count.
    """
    code = code_of(DECIDING, lambda name, _: name in DECIDING or name.startswith(FOLLOWED))
    return digest_of({**code, **_user_code(*_references(spec))})


def user_code_digest(*references: str | None) -> str:
    """Return the digest of the user's code behind each `module:function`; empty without any."""
    code = _user_code(*references)
    return digest_of(code) if code else ""


def recipe_digest(spec: ModelSpec) -> str:
    """Return the digest of what a person decides of a model: its spec, a point, the user's code."""
    code = _digest_user_code(spec)
    return f"{spec.recipe}.{code}" if code else spec.recipe


def _digest_user_code(spec: ModelSpec) -> str:
    return user_code_digest(*_references(spec))


def _references(spec: ModelSpec) -> tuple[str | None, ...]:
    trusted = (":".join(path.rpartition(".")[::2]) for path in spec.estimator.trusted)
    return spec.features.python, spec.estimator.python, spec.gate.python, *trusted


def _user_code(*references: str | None) -> dict[str, str]:
    modules = [reference.partition(":")[0] for reference in references if reference]
    return code_of(modules, is_of_the_user)


@cache
def lock_digest() -> str:
    """Return a digest of the versions of all installed packages."""
    return digest_of(installed())


def digest(*parts: str) -> str:
    """Return a short digest of texts in their order."""
    return sha256("|".join(parts).encode()).hexdigest()[:16]


def digest_of(parts: Mapping[str, str]) -> str:
    """Return a short digest of named texts."""
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
