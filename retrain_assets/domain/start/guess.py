"""Draft the YAML of a dataset and a model from a sample, and judge the sample by it.

Not here: reading the sample, writing files, and each single guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from retrain_assets.domain.data.row_checks import RawRows, flag_rows, typed
from retrain_assets.domain.data.rules import BROKEN, LINE, PROBLEM, partition_of
from retrain_assets.domain.data.values import ungrouped
from retrain_assets.domain.start import contract, meaning, model
from retrain_assets.domain.start.columns import ColumnGuess, guess_text, guess_typed
from retrain_assets.domain.start.draft import Draft, Guess, join, printable
from retrain_assets.domain.start.table import Table, compute_strength
from retrain_assets.domain.start.time import (
    LEAST_PARTITIONS,
    Periods,
    derive_times,
    guess_periods,
    guess_time,
)
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.features import Kind
from retrain_assets.specs.partition import PartitionSpec

_SORTED = 0.3  # share of the target that the place in the file explains
_ACCEPTED = 0.95  # of rows, below which whole files are refused


@dataclass(frozen=True)
class Sample:
    """Rows as they stand in files.

    Args:
        rows: Columns as text, or as a file with types has them; `_line`, `_broken`, `_problem`.
        source: The field `landing`, `delta`, `iceberg` or `sql`.
        read: Options by which they were read, as in `read`.
        files: How many files they are from.
    """

    rows: pl.DataFrame
    source: Mapping[str, Any]
    read: Mapping[str, Any]
    files: int = 1

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns."""
        return [name for name in self.rows.columns if name not in (LINE, BROKEN, PROBLEM)]

    @property
    def is_pulled(self) -> bool:
        """Tell if the rows are from a database, where lines have no lasting numbers."""
        return "sql" in self.source


@dataclass(frozen=True)
class Wishes:
    """The settings that somebody has stated.

    Args:
        model: Name of the model.
        dataset: Name of the dataset.
        target: A column, or SQL over columns.
        time: The column of the time.
        key: The columns that identify a row.
        kind: The kind of the target.
    """

    model: str
    dataset: str
    target: str
    time: str | None = None
    key: Sequence[str] = ()
    kind: Kind | None = None


@dataclass(frozen=True)
class Start:
    """The outcome.

    Args:
        dataset: Draft of the dataset.
        model: Draft of the model.
        guesses: What was guessed.
        partitions: The partitions in the sample, in order.
        notes: What must be said in plain words.
    """

    dataset: Draft
    model: Draft
    guesses: list[Guess]
    partitions: tuple[str, ...]
    notes: list[str] = field(default_factory=list)

    def render(self, title: str) -> str:
        """Return the YAML of both, below a title."""
        head = (
            f"# {printable(title)}\n# What stands behind a # is guessed from it: correct it here.\n"
        )
        return f"{head}{self.dataset.render()}---\n{self.model.render()}"


def guess(sample: Sample, wishes: Wishes) -> Start:
    """Return the YAML that fits a sample.

    Raises:
        ValueError: The sample has no rows or a wish cannot be met; the message says what would do.
    """
    if sample.rows.is_empty():
        raise ValueError("the sample has no rows: give a file with some")
    return _Guesser(sample, wishes).run()


class _Guesser:
    """Goes from types to time, target, key and rules; each step uses those before it."""

    def __init__(self, sample: Sample, wishes: Wishes) -> None:
        self.sample, self.wishes = sample, wishes
        self.guesses: list[Guess] = []
        self.notes: list[str] = []
        self.derived: dict[str, dict[str, Any]] = {}
        self.reasons: dict[str, list[str]] = {}
        self.chunk, self.line = (self._new_name(name) for name in ("chunk", "line"))
        self.columns = self._guess_columns()
        self.read = self._guess_read()
        self.table = self._type_rows()

    def run(self) -> Start:
        time = self._guess_time()
        target, kind_guess = meaning.guess_target(self.table, self.wishes.target, self.wishes.kind)
        self.guesses.append(kind_guess)
        partition, periods = self._divide(time, target)
        later = self._find_later(target, time)
        personal = self._find_personal(target)
        key = self._guess_key(time, [*later, *target.sources, *personal])
        columns = self._describe_columns(time, target, key, later, personal)
        head: dict[str, Any] = {"name": self.wishes.dataset, **self.sample.source}
        head |= {"read": self.read} if self.read else {}
        tail = {"key": key}
        dataset = contract.draft_dataset(
            {**head, "partition": partition}, columns, self.reasons, tail
        )
        dataset.comments["partition",] = self._say_partitions(periods)
        dataset.comments["key",] = self.guesses[-1].reason
        excluded = {*later, *target.sources, *personal, time or "", self.chunk, self.line}
        names = model.choose_features(self.table, excluded)
        sql = model.write_features(self.table, names, time)
        if not names and time is None:
            used = join([*later, *personal]) or "none"
            raise ValueError(
                "no column is left for the features of a model: give a sample with a column that "
                f"is known before; known later or personal are: {used}"
            )
        delay = self._count_unlabelled(target, partition, time)
        drafted = model.draft_model(
            self.wishes.model, self.wishes.dataset, target, sql, periods, delay
        )
        left_out = [n for n in self.table.types if n not in {*names, *excluded, *key}]
        drafted.comments["features",] = f"not used: {join(left_out)}" if left_out else ""
        drafted.comments["target",] = kind_guess.reason
        start = Start(dataset, drafted, self.guesses, periods.keys, self.notes)
        self._judge(dataset)
        return start

    def _new_name(self, name: str) -> str:
        """Return a name for a derived column that no column of the sample has."""
        names = {name, *(f"{name}_{number}" for number in range(2, 1000))}
        return min(names.difference(self.sample.columns), key=lambda text: (len(text), text))

    def _guess_columns(self) -> dict[str, ColumnGuess]:
        read, columns = self.sample.read, {}
        decimal, thousands = read.get("decimal", "."), read.get("thousands")
        for name in self.sample.columns:
            values = self.sample.rows[name]
            is_text = values.dtype == pl.String and (self._has_texts() or self.sample.is_pulled)
            if is_text and thousands:
                values = values.to_frame().select(ungrouped(pl.col(name), thousands, decimal))[name]
            column = guess_text(values, decimal) if is_text else guess_typed(values.dtype)
            if self.sample.is_pulled and column.written:
                column = guess_typed(values.dtype)
            if column.kind is None:
                self.notes.append(f"{name} is left out: {values.dtype} fits no type of a contract")
            else:
                columns[name] = column
                self._report_column(name, column)
        return columns

    def _report_column(self, name: str, column: ColumnGuess) -> None:
        texts = self.reasons.setdefault(name, [])
        if column.unread:
            count, kind = f"{column.unread:,} values", column.kind
            texts.append(f"{count} cannot be read as {kind}: their rows are refused")
            self.guesses.append(Guess(name, str(column.kind), texts[-1], "unsure"))
        if column.rival:
            why = f"{column.rival} reads them too"
            self.guesses.append(Guess(f"{name} format", str(column.written), why, "unsure"))

    def _guess_read(self) -> dict[str, Any]:
        read = dict(self.sample.read)
        formats = {name: column.written for name, column in self.columns.items() if column.written}
        words = {word for column in self.columns.values() for word in column.words}
        if self.sample.source.get("landing", "").endswith(".csv") and words - {""}:
            read["nulls"] = sorted({"", *words})
            self.guesses.append(
                Guess("read.nulls", join(sorted(words - {""})), "words for no value")
            )
        if formats:
            read["date_format"] = formats
        if any(self._is_naive(name, column) for name, column in self.columns.items()):
            read["naive"] = "utc"
            why = "times have no offset; `local` takes partition.timezone"
            self.guesses.append(Guess("read.naive", "utc", why, "unsure"))
        return read

    def _is_naive(self, name: str, column: ColumnGuess) -> bool:
        if column.kind != "datetime" or column.written:
            return False
        values = self.sample.rows[name]
        if values.dtype == pl.String:
            return (
                not values.drop_nulls().head(100).str.contains(r"(Z|[+-][0-9]{2}:?[0-9]{2})$").all()
            )
        return getattr(values.dtype, "time_zone", None) is None

    def _spec(self, columns: Mapping[str, Any], key: Sequence[str] = ()) -> DatasetSpec:
        """Return a dataset without partitions, by which the rows of the sample are read."""
        return DatasetSpec.model_validate(
            {
                "name": "sample",
                **self.sample.source,
                "read": self.read,
                "partition": {"by": "none"},
                "columns": dict(columns),
                "key": list(key) or [next(iter(columns))],
            }
        )

    def _raw(self) -> RawRows:
        return RawRows("the sample", "all", "", self.sample.rows)

    def _type_rows(self) -> Table:
        types: dict[str, Any] = {name: column.kind for name, column in self.columns.items()}
        types |= {name: rules["type"] for name, rules in self.derived.items()}
        columns = {name: {"type": kind} for name, kind in types.items()} | self.derived
        rows = pl.concat(typed([self._raw()], self._spec(columns)))
        return Table(rows.filter(pl.col(BROKEN).is_null()).select(*types, LINE), types)

    def _guess_time(self) -> str | None:
        wish = self.wishes.time
        if not self.table.of_type("date", "datetime") or (wish and wish not in self.table.types):
            texts = {
                name: self.table.rows[name]
                for name in self.table.of_type("category")
                if not self._has_texts()
            }
            for name, kind, sql in derive_times(self.table, texts):
                if name not in self.table.types:
                    self.derived[name] = {"type": kind, "expression": sql}
            self.table = self._type_rows() if self.derived else self.table
        time, why = guess_time(self.table, wish, self.wishes.target)
        self.derived = {name: rules for name, rules in self.derived.items() if name == time}
        self.guesses.append(why)
        return time

    def _has_texts(self) -> bool:
        """Tell if the files have text alone, and no types."""
        return str(self.sample.source.get("landing")).endswith((".csv", ".jsonl"))

    def _divide(self, time: str | None, target: meaning.Target) -> tuple[dict[str, Any], Periods]:
        rows = self.table.rows.height
        if time is not None:
            periods = guess_periods(self.table.rows[time])
            if len(periods.keys) < LEAST_PARTITIONS:
                self.notes.append(
                    f"{time} spans {len(periods.keys)} partitions: a first decision takes at least "
                    f"{LEAST_PARTITIONS}, so the model waits for more data"
                )
            return {"by": periods.by, "column": time, "start": periods.keys[0]}, periods
        if self.sample.is_pulled:
            raise ValueError("a table of a database needs a column of the time: give --time")
        place = pl.Series("place", range(len(target.values)))
        is_sorted = compute_strength(place, target.values) > _SORTED
        partition, expression = contract.divide_lines(rows, self.chunk, is_sorted=is_sorted)
        self.derived |= {self.chunk: {"type": "int", "expression": expression}}
        self.table = self._type_rows()
        width = len(partition["start"])
        keys = self.table.rows[self.chunk].cast(pl.String).str.zfill(width).unique().sort()
        self.notes += _explain_no_time(expression, is_sorted=is_sorted)
        return partition, Periods("value", tuple(keys), rows // len(keys))

    def _find_later(self, target: meaning.Target, time: str | None) -> list[str]:
        later = []
        for name, why, is_plain in meaning.find_later(self.table, target, time):
            if name in (self.chunk, *self.wishes.key):
                continue
            self.reasons.setdefault(name, []).append(why)
            value = "known: later" if is_plain else "known before"
            self.guesses.append(Guess(name, value, why, "likely" if is_plain else "unsure"))
            later += [name] if is_plain else []
        return later

    def _find_personal(self, target: meaning.Target) -> list[str]:
        reasons = {
            name: why
            for name in self.table.types
            if name not in target.sources and (why := meaning.is_personal(self.table, name))
        }
        for name, why in reasons.items():
            self.reasons.setdefault(name, []).append(f"{why}: masked, and no feature")
            self.guesses.append(Guess(name, "personal", why))
        return list(reasons)

    def _guess_key(self, time: str | None, excluded: Sequence[str]) -> list[str]:
        excluded = [*excluded, self.chunk, *(self.derived if self.sample.is_pulled else ())]
        key, why = meaning.guess_key(self.table, time, excluded, self.wishes.key)
        if not key and (self.sample.is_pulled or self.sample.files > 1):
            raise ValueError("no columns identify a row: give --key, or put the rows into one file")
        if not key:
            self.derived[self.line] = {"type": "int", "expression": "_line"}
            key = [self.line]
            self.table = self._type_rows()
            self.notes.append(
                "no columns identify a row, so its line in the file does: deliver a partition in "
                "one file, and corrections under the same name"
            )
        self.guesses.append(why)
        return key

    def _describe_columns(
        self,
        time: str | None,
        target: meaning.Target,
        key: Sequence[str],
        later: Sequence[str],
        personal: Sequence[str],
    ) -> dict[str, dict[str, Any]]:
        columns = {}
        ordered = self.table if time is None else self._by_time(time)
        for name in [*self.columns, *self.derived]:
            rules, texts = contract.describe_column(
                ordered,
                name,
                is_key=name in key and name not in self.derived,
                is_time=name == time and name not in self.derived,
                is_personal=name in personal,
            )
            if name in self.derived:
                rules, texts = self.derived[name], []
            if name in (*later, *target.sources):
                rules["known"] = "later"
            columns[name] = rules
            self.reasons[name] = [*self.reasons.get(name, []), *texts]
        return columns

    def _by_time(self, time: str) -> Table:
        return replace(self.table, rows=self.table.rows.sort(time, maintain_order=True))

    def _say_partitions(self, periods: Periods) -> str:
        what = f"{len(periods.keys)} partitions, {periods.typical:,} rows in the middle one"
        self.guesses.insert(1, Guess("partition.by", periods.by, what))
        return what

    def _count_unlabelled(
        self, target: meaning.Target, partition: dict[str, Any], time: str | None
    ) -> int:
        """Return how many of the newest partitions have no label at all."""
        if time is None:
            return 0
        key = partition_of(PartitionSpec.model_validate(partition), time)
        labels = self.table.rows.select(
            key.alias("key"), target.values.is_not_null().alias("label")
        )
        by_key = labels.drop_nulls("key").group_by("key").agg(pl.col("label").any()).sort("key")
        flags = by_key["label"].reverse().to_list()
        return flags.index(True) if True in flags else 0

    def _judge(self, dataset: Draft) -> None:
        """Refuse nothing, but report how many rows of the sample break the drafted contract."""
        spec = self._spec(dataset.attributes["columns"], dataset.attributes["key"])
        chunks, flags = flag_rows([self._raw()], spec)
        rows = pl.concat(chunks)
        counts = {
            f"{name} of {rule.column or 'the line'}": int(rows[flag].sum())
            for flag, (name, rule) in flags.items()
            if rows[flag].sum()
        }
        total = int(rows["_refused"].sum())
        if total:
            why = join(f"{count:,} by {name}" for name, count in counts.items())
            self.notes.append(f"{total:,} of {rows.height:,} rows would be refused: {why}")
        if total > rows.height * (1 - _ACCEPTED):
            self.notes.append(
                "files with so many refused rows are refused as a whole: mend the columns above"
            )


def _explain_no_time(expression: str, *, is_sorted: bool) -> list[str]:
    order = f"every {contract.CHUNKS}th row" if is_sorted else "the order of lines"
    possible = (
        "what can be judged: which of two models is better on rows that neither was trained on; "
        "each delivery of more rows can start a retraining (new_partitions)"
    )
    impossible = (
        "what cannot be judged: drift, whether the model becomes worse with time, and whether it "
        "is good on rows newer than those it was trained on; for that, add a column with the day "
        "of each row, or of its delivery, and call `retrain new` again"
    )
    why = f"no column says when a row happened, so rows are divided by {order} ({expression})"
    return [why, possible, impossible]
