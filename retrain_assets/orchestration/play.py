"""Play: data arrive in order, the shipped sensors settle after each delivery, and decisions follow.

Not here: the data of the demo, and policies over stored features (`steps/replay.py`), which are
quicker and change nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from retrain_assets.domain.data.rules import PARTITION, dataset_schema
from retrain_assets.orchestration.assets.monitoring import Model
from retrain_assets.orchestration.build import dataset_definitions, model_definitions
from retrain_assets.orchestration.dagster_internals.ticks import Executed, InProcessDaemon
from retrain_assets.orchestration.resources import StorageResource
from retrain_assets.specs.base import number_of
from retrain_assets.specs.dataset import DatasetSpec, ReadSpec
from retrain_assets.specs.notify import NotifySpec
from retrain_assets.stores.storage import Storage

DELIVERIES = 20  # after the first one, unless somebody says how large they are
Tell = Callable[[dict[str, Any]], None]


def settle_deliveries(
    storage: Storage,
    names: Sequence[str],
    settle: Callable[[], Iterable[Executed]],
    deliveries: Iterable[tuple[str, int]],
    total: int,
    tell: Tell,
) -> list[dict[str, Any]]:
    """Let the sensors settle after each delivery.

    Args:
        storage: Where everything is kept.
        names: The models.
        settle: Ticks the sensors until none asks for anything, and yields the runs.
        deliveries: Lets files land when it is asked for the next name and size of a delivery.
        total: The size of all deliveries.
        tell: Takes each decision as it is made.

    Returns:
        See `list_decisions`.
    """
    counts = {name: len(list_decisions(storage, [name])) for name in names}
    with _progress() as progress:
        task = progress.add_task("first delivery", total=total)
        for name, size in deliveries:
            progress.update(task, description=f"{name}: sensors")
            for run in settle():
                progress.update(task, description=f"{name}: {run.job}")
                model = run.job.removesuffix("_retrain")
                if model in counts:
                    decisions = list_decisions(storage, [model])
                    for row in decisions[counts[model] :]:
                        tell(row)
                    counts[model] = len(decisions)
            progress.update(task, advance=size)
    return list_decisions(storage, names)


def list_decisions(storage: Storage, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the decisions of all models in the order of the data that they were made on."""
    ledgers = {name: storage.ledger(name).read() for name in names}
    rows = [
        {"model": name, **row.for_people()} for name, read in ledgers.items() for row in read.rows
    ]
    return sorted(rows, key=lambda row: (row["as_of"], row["model"]))


def _progress() -> Progress:
    return Progress(
        TextColumn("[bold]{task.description:<44}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} partitions"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


@dataclass(frozen=True)
class History:
    """The stored history of a model, which arrives once more in another storage.

    Args:
        model: The model.
        stored: Where the history is.
        target: An empty storage, in which all is done again.
        first: The first partition that arrives; empty for all.
        last: The last one.
        step: How many partitions a delivery after the first one has; by default some 20 follow.
    """

    model: Model
    stored: Storage
    target: Storage
    first: str = ""
    last: str = "\uffff"
    step: int | None = None

    @cached_property
    def deliveries(self) -> list[list[str]]:
        """Return the partitions of each delivery; the first is as much as a first model needs.

        Raises:
            ValueError: There is too little history.
        """
        stored = self._keys(self.model.dataset)
        keys = [key for key in stored if self.first <= key <= self.last]
        needed = self.model.spec.windows.needed + self.model.spec.labels.delay
        if not stored:
            raise ValueError(
                f"nothing of {self.model.dataset.name} is stored yet: `retrain train "
                f"{self.model.spec.name}` reads what has landed"
            )
        if len(keys) <= needed:
            raise ValueError(
                f"{self.model.dataset.name} has {number_of(len(keys), 'stored partition')} there: "
                f"the first model alone needs {needed} (windows.train, windows.holdout and "
                "labels.delay), and some must follow"
            )
        step = self.step or -(-(len(keys) - needed) // DELIVERIES)
        return [keys[:needed], *(keys[n : n + step] for n in range(needed, len(keys), step))]

    @property
    def played(self) -> Model:
        """Return the model as it is played: from plain files, without messages and approvals."""
        lookups = {name: _plain(spec) for name, spec in self.model.lookups.items()}
        spec = self.model.spec.model_copy(update={"notify": NotifySpec(), "approval": "auto"})
        return Model(spec, _plain(self.model.dataset), lookups)

    def land(self) -> Iterator[tuple[str, int]]:
        """Let one delivery land after the other, each with what its lookups had by then."""
        waiting = {spec.name: self._keys(spec) for spec in self.model.lookups.values()}
        for keys in self.deliveries:
            for spec in self.model.lookups.values():
                ready = [key for key in waiting[spec.name] if self._has_begun(key, spec, keys[-1])]
                self._write(spec, ready)
                waiting[spec.name] = [key for key in waiting[spec.name] if key not in ready]
            self._write(self.model.dataset, keys)
            yield keys[-1], len(keys)

    def _keys(self, spec: DatasetSpec) -> list[str]:
        tables, table = self.stored.tables, f"{spec.name}/dataset"
        rows = tables.scan(table, dataset_schema(spec)).select(PARTITION).unique()
        return sorted(tables.collect(rows, table)[PARTITION])

    def _has_begun(self, key: str, spec: DatasetSpec, now: str) -> bool:
        """Tell if a partition of a lookup has begun when one of the dataset has."""
        period, ours = spec.partition.period, self.model.dataset.partition.period
        if period is None or ours is None:
            return True
        begin, present = period.begins(key), ours.begins(now)
        return begin is None or present is None or begin <= present

    def _write(self, spec: DatasetSpec, keys: Sequence[str]) -> None:
        folder = self.target.landing / spec.name
        folder.mkdir(parents=True, exist_ok=True)
        rows = self.stored.tables.read(f"{spec.name}/dataset", keys, dataset_schema(spec))
        for (key,), part in rows.partition_by(PARTITION, as_dict=True).items():
            part.select(list(spec.columns)).write_parquet(folder / f"{key}.parquet")


def _plain(spec: DatasetSpec) -> DatasetSpec:
    """Return a dataset whose accepted rows are its files; derived columns are columns of these."""
    changed: dict[str, Any] = {"expression": None, "outliers": None, "normalise": []}
    columns = {name: column.model_copy(update=changed) for name, column in spec.columns.items()}
    key = "all" if spec.partition.by == "none" else "{partition}"
    return spec.model_copy(
        update={
            "landing": f"{spec.name}/{key}.parquet",
            **dict.fromkeys(("delta", "iceberg", "sql", "asset", "expected")),
            "read": ReadSpec(settle="0s"),
            "rows": spec.rows.model_copy(update={"stray": 0.0}),
            "columns": columns,
            "expectations": [],
            "notify": NotifySpec(),
        }
    )


def play(history: History, instance: dg.DagsterInstance, tell: Tell) -> list[dict[str, Any]]:
    """Let the history of a model arrive again, and return the decisions in their order.

    Args:
        history: What arrives, and where.
        instance: Where runs are recorded, beside those of the real storage.
        tell: See `settle_deliveries`.

    Raises:
        ValueError: There is too little history.
    """
    model, target = history.played, history.target
    total = sum(map(len, history.deliveries))
    places = {"root": str(target.root), "work": str(target.work)}
    resource = StorageResource(**places, tracking_uri=target.mlflow_uri)
    parts = [model.dataset, *model.lookups.values()]
    merged = dg.Definitions.merge(
        *(dataset_definitions(spec) for spec in {spec.name: spec for spec in parts}.values()),
        model_definitions(model),
    )
    definitions = dg.Definitions(
        assets=merged.assets,
        asset_checks=merged.asset_checks,
        jobs=merged.jobs,
        sensors=merged.sensors,
        resources={**(merged.resources or {}), "storage": resource},
        executor=dg.in_process_executor,
    )
    daemon = InProcessDaemon(definitions, instance)
    names = [model.spec.name]
    return settle_deliveries(target, names, daemon.settle, history.land(), total, tell)
