"""What is known of one model: which partitions are there, complete, built, and what was seen.

Read by assets, sensors and the command line, so that all of them decide on the same facts. Not
here: writing, and deciding.

Short names of long things: of texts, and of the code and packages that a model is made with.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from importlib.metadata import distributions
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar, cast

import polars as pl

from retrain_assets.domain.data.contract import FILES_SCHEMA, UNPLACED
from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.decision.situation import HeldCandidate, Production, Situation
from retrain_assets.domain.decision.triggers import count_refusals
from retrain_assets.domain.drift.profile import PROFILE_SCHEMA, ColumnProfile, merge
from retrain_assets.domain.features.build import list_features
from retrain_assets.domain.features.lookup_partitions import LookupPartitions
from retrain_assets.domain.windows import complete_partitions, mature_partitions, take_before
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.model import ModelSpec
from retrain_assets.steps.modules import code_of, is_of_the_user
from retrain_assets.stores.ledger import History, Ledger, LedgerRow, Pauses
from retrain_assets.stores.registry.registry import ModelRegistry
from retrain_assets.stores.tables.tables import Tables

Made = TypeVar("Made")
SOURCE = "_source"  # digest of what a partition was built from
FILES = {**FILES_SCHEMA, "stamp": pl.String()}
MONITORING_SCHEMA: dict[str, pl.DataType] = {
    PARTITION: pl.String(),
    "role": pl.String(),
    "measure": pl.String(),
    "column": pl.String(),
    "statistic": pl.Float64(),
    "threshold": pl.Float64(),
    "baseline": pl.Float64(),
    "alert": pl.Boolean(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "effect": pl.String(),
    "model_version": pl.Int64(),
    "window_from": pl.String(),
    "window_to": pl.String(),
    SOURCE: pl.String(),
}


def landed(tables: Tables, dataset: str) -> dict[str, str]:
    """Digest of the accepted files of each partition of a dataset, in the order of partitions."""
    digests = _accepted(tables, dataset, pl.col("sha256").sort().str.join("+"))
    return {key: digest(found) for key, found in digests.items()}


def landed_rows(tables: Tables, dataset: str) -> dict[str, int]:
    """Accepted rows of each partition of a dataset, in the order of partitions."""
    return _accepted(tables, dataset, pl.col("accepted").sum())


def _accepted(tables: Tables, dataset: str, figure: pl.Expr) -> dict[str, Any]:
    placed = ~pl.col(PARTITION).str.starts_with(UNPLACED)
    files = landing_files(tables, dataset, pl.col("refusal").is_null() & placed)
    return dict(files.group_by(PARTITION).agg(figure).sort(PARTITION).iter_rows())


def landing_files(tables: Tables, dataset: str, wanted: pl.Expr | bool = True) -> pl.DataFrame:
    """What became of the landing files of a dataset, a row a file and partition, as in `FILES`."""
    table = f"{dataset}/files"
    return tables.collect(tables.scan(table, FILES).filter(wanted), table)


@dataclass(frozen=True)
class ModelState:
    """The read side of one model.

    Args:
        spec: The model.
        dataset: The dataset whose rows are predicted.
        lookups: The datasets joined to it, by name.
        tables: Where their tables are.
        registry: The versions of the model.
        memo: Results that do not depend on who asks, by name, where they are kept to be shared.
    """

    spec: ModelSpec
    dataset: DatasetSpec
    lookups: Mapping[str, DatasetSpec]
    tables: Tables
    registry: ModelRegistry
    memo: dict[tuple[str, ...], Any] | None = None

    @property
    def ledger(self) -> Ledger:
        """The model's decisions."""
        return Ledger(self.tables, self.spec.name)

    @property
    def pauses(self) -> Pauses:
        """What holds back its retraining."""
        return Pauses(self.tables, self.spec.name)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The features of the spec as it is now."""
        return list_features(self.spec, self.dataset, self.lookups)

    @cached_property
    def reaches(self) -> dict[str, LookupPartitions]:
        """Which partitions of each lookup a partition sees."""
        return {
            name: LookupPartitions(lookup, self.dataset, self.lookups[name])
            for name, lookup in self.spec.lookups.items()
        }

    @cached_property
    def recipe(self) -> str:
        """Digest of what would be trained now: the spec, and behind a point the user's code."""
        return recipe_digest(self.spec)

    def once(self, name: tuple[str, ...], make: Callable[[], Made]) -> Made:
        """What was made under that name before, where results are kept; otherwise it is made."""
        kept = {} if self.memo is None else self.memo
        if name not in kept:
            kept[name] = make()
        return cast("Made", kept[name])

    def table(self, name: str) -> str:
        """The full name of one of the model's tables."""
        return f"{self.spec.name}/{name}"

    def stored(
        self, name: str, schema: Mapping[str, pl.DataType], wanted: pl.Expr | bool = True
    ) -> pl.DataFrame:
        """Rows of one of the model's tables, of which some may be wanted."""
        table = self.table(name)
        return self.tables.collect(self.tables.scan(table, schema).filter(wanted), table)

    def sources(self) -> dict[str, str]:
        """Complete partitions in order, each with a digest of all that its features depend on.

        Of two parts with a point between: the spec and the user's code of the features, and the
        data.
        """
        main = landed(self.tables, self.dataset.name)
        joined = {name: landed(self.tables, name) for name in self.spec.lookups}
        if not all(joined.values()):
            return {}
        arrivals = (
            (self._whole(reach, main, joined[name]), self.spec.lookups[name].lateness)
            for name, reach in self.reaches.items()
            if reach.is_bounded
        )
        made, past = self.spec.features_recipe, self._past(main)
        if code := user_code_digest(self.spec.features.python):
            made = digest(made, code)
        keys = {name: tuple(found) for name, found in joined.items()}
        return {
            key: f"{made}."
            + digest(
                main[key],
                *past.get(key, ()),
                *(
                    digest(*(joined[name][seen] for seen in reach.seen(key, keys[name])))
                    for name, reach in self.reaches.items()
                ),
            )
            for key in complete_partitions(tuple(main), arrivals)
        }

    def built(self) -> dict[str, str]:
        """Partitions that were monitored, each with the digest of what they were built from."""
        table = self.table("monitoring")
        seen = self.tables.scan(table, MONITORING_SCHEMA).select(PARTITION, SOURCE).unique()
        return dict(self.tables.collect(seen.sort(PARTITION), table).iter_rows())

    def mature(self) -> tuple[str, ...]:
        """Partitions that are complete, not excluded and have final labels, in order.

        One that was built from something else than what is there now waits until it is built again.
        """
        built, sources = self.built(), self.sources()
        return tuple(
            key
            for key in mature_partitions(tuple(sources), self.spec.labels.delay)
            if built.get(key) == sources[key] and not self.is_excluded(key)
        )

    def list_unbuilt(self) -> list[str]:
        """Return the complete partitions that have no monitoring of their present data and spec."""
        built = self.built()
        return [key for key, source in self.sources().items() if built.get(key) != source]

    def is_excluded(self, key: str) -> bool:
        """Whether a partition is known to be bad."""
        return any(bad.first <= key <= bad.last for bad in self.spec.exclude)

    def trained_on(self, keys: Sequence[str], data_range: tuple[str, str]) -> tuple[str, ...]:
        """Those of some partitions that a model trained on a range was trained on."""
        first, last = data_range
        return tuple(key for key in keys if first <= key <= last and not self.is_excluded(key))

    def profiles(self, keys: Collection[str]) -> pl.DataFrame:
        """Stored summaries of some partitions, but for columns that have changed in kind."""
        rows = self.tables.read(self.table("profile"), keys, PROFILE_SCHEMA)
        return rows.filter(pl.col("kind").n_unique().over("column") == 1)

    def trained_profile(self, data_range: tuple[str, str]) -> dict[str, ColumnProfile]:
        """Summaries of the features that a model was trained on, by name."""
        table = self.table("profile")
        rows = self.tables.scan(table, PROFILE_SCHEMA).select(pl.col(PARTITION).unique())
        there = self.tables.collect(rows, table)[PARTITION].to_list()
        keys = self.trained_on(there, data_range)
        found = merge(self.profiles(keys))
        return {name: column for name, column in found.items() if name != self.spec.target.column}

    def situation(self) -> Situation:
        """What the triggering policy decides on."""
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
        mature, windows = self.mature(), self.spec.windows
        needed = windows.train + windows.holdout
        return Situation(
            mature=mature,
            needed=needed,
            recipe=self.recipe,
            production=production,
            last_decision=history.decided.as_of if history.decided else None,
            last_recipe=_as_now(decided.recipe, self.recipe) if decided else None,
            last_gate=decided.gate if decided else None,
            monitoring=monitored.filter(~pl.col(PARTITION).is_in(bad)),
            pause=self.pauses.read(),
            refusals=count_refusals((row.action, row.causes) for row in history.rows),
            held_candidate=_held(history, self.recipe),
            unbuilt=len(self.list_unbuilt()) if len(mature) < needed else 0,
        )

    @staticmethod
    def _whole(reach: LookupPartitions, main: Iterable[str], there: Collection[str]) -> list[str]:
        """Partitions for which all of a lookup is there that their rows may see."""
        return [key for key in main if all(part in there for part in reach.awaited(key))]

    def _past(self, main: Mapping[str, str]) -> dict[str, list[str]]:
        """What each partition looks back on: digests, and whether the labels are shown."""
        length, keys = self.spec.features.history, tuple(main)
        if length == 0:
            return {}
        windows = {key: take_before(keys, key, length) for key in keys}
        delay = self.spec.labels.delay
        return {
            key: [f"{main[k]}:{k in mature_partitions(window, delay)}" for k in window]
            for key, window in windows.items()
        }


def by_production(
    history: History, table: pl.DataFrame
) -> Iterator[tuple[LedgerRow | None, pl.DataFrame]]:
    """Rows in the order of partitions, by what was in production when their partition arrived."""
    keys = table[PARTITION].unique(maintain_order=True)
    for production, served in groupby(keys, key=history.production_at):
        yield production, table.filter(pl.col(PARTITION).is_in(list(served)))


def data_digest(source: str) -> str:
    """The part of a partition's digest that is of its data."""
    return source.rpartition(".")[2]


def _held(history: History, recipe: str) -> HeldCandidate | None:
    """What the newest decision held, if neither the spec nor production has changed since.

    Where nothing is in production, a new candidate is tried at once.
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
    return digest_of({**code_of(DECIDING, _decides), **_user_code(*_references(spec))})


def user_code_digest(*references: str | None) -> str:
    """Return the digest of the user's code behind each `module:function`; empty without any."""
    code = _user_code(*references)
    return digest_of(code) if code else ""


def recipe_digest(spec: ModelSpec) -> str:
    """Return the digest of what a person decides of a model: its spec, a point, the user's code."""
    code = user_code_digest(*_references(spec))
    return f"{spec.recipe}.{code}" if code else spec.recipe


def _references(spec: ModelSpec) -> tuple[str | None, ...]:
    return spec.features.python, spec.estimator.python, spec.gate.python


def _user_code(*references: str | None) -> dict[str, str]:
    modules = [reference.partition(":")[0] for reference in references if reference]
    return code_of(modules, is_of_the_user)


def _decides(name: str, _: Path) -> bool:
    return name in DECIDING or name.startswith(FOLLOWED)


@cache
def lock_digest() -> str:
    """Digest of the versions of all installed packages."""
    return digest_of(installed())


def installed() -> dict[str, str]:
    """The version of each installed package."""
    return {found.metadata["Name"]: found.version for found in distributions()}


def digest(*parts: str) -> str:
    """A short digest of texts in their order."""
    return sha256("|".join(parts).encode()).hexdigest()[:16]


def digest_of(parts: Mapping[str, str]) -> str:
    """A short digest of named texts."""
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
