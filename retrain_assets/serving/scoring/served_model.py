"""A model as it is served: the version that answers, and how another version replaces it.

The version in production is read from the ledger, lookups from their tables. Each is replaced as a
whole after its successor was verified, so that a request sees one state from beginning to end. The
digest in the ledger decides which file is loaded: it may come from MLflow or from the copy that was
kept here when it was last verified. On any doubt the old version stays and the trouble is reported.
Not here: answering, and deciding.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from polars.exceptions import PanicException

from retrain_assets.domain.features.build import drop_replaced, get_lookup_schema
from retrain_assets.domain.model.estimator import predict
from retrain_assets.domain.model.explanation import Explainer
from retrain_assets.serving.scoring.quick_model import QuickModel, build_quick_model
from retrain_assets.serving.scoring.rows import FeatureMaker, LookupRows
from retrain_assets.specs.base import duration
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.steps.decision import train
from retrain_assets.steps.decision.train import Output
from retrain_assets.steps.features.build import read_features
from retrain_assets.steps.monitoring import in_service
from retrain_assets.steps.monitoring.intervals import read_timeline
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.ledger import History, LedgerRow
from retrain_assets.stores.place import Folder
from retrain_assets.stores.registry import model_check, model_file
from retrain_assets.stores.registry.model_check import EXAMPLE_FILE, compare_with_example

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

TRIED_ROWS, RETRY_SECONDS = 500, 30.0


class VersionError(RuntimeError):
    """A version is not served; the message says why."""


class MissingFeaturesError(model_file.ModelFileError):
    """A version needs features that the YAML no longer makes."""


@dataclass(frozen=True)
class Version:
    """A version that answers.

    Args:
        row: The decision that made it the version that answers.
        pipeline: The model.
        quick: Its faster form, if it has one.
        how: A sentence on how it predicts.
        source: `MLflow`, or `copy` where MLflow could not be reached.
        classes: The classes of a classifier, as JSON can hold them.
        booleans: Features that are stored as true or false.
    """

    row: LedgerRow
    pipeline: Pipeline
    quick: QuickModel | None
    how: str
    source: str
    classes: list[str] | None
    booleans: frozenset[str]

    @property
    def number(self) -> int:
        """Return the number of the version."""
        return self.row.version

    @cached_property
    def columns(self) -> list[str]:
        """Return its features in order."""
        return list(self.pipeline[0].columns_)

    @cached_property
    def schema(self) -> dict[str, pl.DataType]:
        """Return the types of its features."""
        texts = self.pipeline[0].categories_
        return {n: pl.String() if n in texts else pl.Float64() for n in self.columns}

    @cached_property
    def categories(self) -> list[tuple[int, str, frozenset[str]]]:
        """Return place and name of each category, and its values in training."""
        categories = self.pipeline[0].categories_.items()
        return [(self.columns.index(name), name, frozenset(v)) for name, v in categories]

    @cached_property
    def explainer(self) -> Explainer:
        """Return what explains its predictions, which takes a moment to build."""
        return Explainer(self.pipeline)

    def explain(self, features: Sequence[Any]) -> np.ndarray:
        """Return SHAP values of features, a column each, of shape (rows, outputs, features).

        Raises:
            AttributeError, KeyError, TypeError, ValueError: It has none.
        """
        return self.explainer(self._to_frame(features))

    def is_quick(self, rows: int) -> bool:
        """Return whether so many rows are predicted by the quick form."""
        return self.quick is not None and rows <= self.quick.most_rows

    def predict(
        self, state: ModelState, features: Sequence[Any], *, strict: bool = True
    ) -> np.ndarray:
        """Predict features, a column each, as `predict` of the domain does."""
        if self.quick is not None and self.is_quick(len(features[0])):
            return self.quick.predict(features, strict=strict)
        frame = self._to_frame(features)
        return predict(self.pipeline, state.spec.target.kind, frame, strict=strict)

    def _to_frame(self, features: Sequence[Any]) -> pl.DataFrame:
        schema = None if isinstance(features[0], pl.Series) else self.schema
        return pl.DataFrame(dict(zip(self.columns, features, strict=True)), schema)


@dataclass(frozen=True)
class ServedLayer:
    """The adaptive layer as it answers.

    Args:
        newest: Its state and members.
        older: The versions after the newest one.
    """

    newest: in_service.Newest
    older: tuple[Version, ...]

    def predict(
        self, version: Version, state: ModelState, features: Mapping[str, Any], output: np.ndarray
    ) -> np.ndarray:
        """Return what is served of rows.

        Args:
            version: The newest version.
            state: The model.
            features: Columns by name; where those of a member are missing, the newest is alone.
            output: What the newest version predicts.
        """
        several, outputs = output.ndim > 1, [Output(None, output, version.classes)]
        for member in self.older:
            try:
                columns = [features[name] for name in member.columns]
            except KeyError:
                return output
            values = member.predict(state, columns, strict=False)
            outputs.append(Output(None, values, member.classes if several else None))
        return self.newest.mix(outputs, state.spec.layer.members)


@dataclass(frozen=True)
class Loader:
    """Loads versions of one model.

    Args:
        state: The model.
        folder: Where verified copies are kept.
    """

    state: ModelState
    folder: Path

    def load(self, row: LedgerRow) -> Version:
        """Return a version after it was verified.

        Raises:
            VersionError: Its file is not the one in the ledger, it predicts something else than in
                training, or the YAML no longer makes its features.
        """
        try:
            return self._verify(row, self._fetch(row))
        except Exception as error:  # on any doubt the version that answers stays
            raise VersionError(
                f"model {self.state.spec.name} version {row.version} is not served: {error}"
            ) from error

    def delete_copies(self, history: History) -> None:
        """Delete copies except of members, of the version before production and of the last row."""
        row, layer = history.production, self.state.spec.layer
        last = history.on_versions[-1]
        numbers = {row.version, row.previous, last.version} if row else set()
        if layer.mode == "auto":
            members = history.members_at(in_service.LATER)[: layer.members]
            numbers |= {member.version for member in members}
        needed = {entry.sha256 for entry in history.rows if entry.version in numbers}
        unneeded = {entry.sha256 for entry in history.rows} - needed
        for copy in self.folder.iterdir():  # the copies of other models are here too
            if copy.name in unneeded:
                shutil.rmtree(copy, ignore_errors=True)

    def _fetch(self, row: LedgerRow) -> str:
        """Bring the files here. The copy is used only where MLflow gives no answer."""
        copy = self.folder / row.sha256
        try:
            registry = self.state.registry
            uri = registry.version(row.version).uri
            content = registry.file(uri, model_file.MODEL_FILE)
            example = registry.file(uri, f"extra_files/{EXAMPLE_FILE}")
        except model_file.ModelFileError:
            raise
        except Exception as error:
            if not (copy / model_file.MODEL_FILE).exists():
                raise model_file.ModelFileError(
                    f"MLflow does not answer ({error}), and there is no copy of the version here"
                ) from error
            return "copy"
        if model_file.digest(content) != row.sha256:
            # It refuses the file, since its digest differs.
            model_file.load_model(content, row.sha256, f"version {row.version}")
        for name, written in ((EXAMPLE_FILE, example), (model_file.MODEL_FILE, content)):
            Folder(copy).write(name, written)
        return "MLflow"

    def _verify(self, row: LedgerRow, source: str) -> Version:
        state, copy = self.state, self.folder / row.sha256
        kind, model = state.spec.target.kind, copy / model_file.MODEL_FILE
        content, trusted = model.read_bytes(), state.spec.estimator.trusted
        if model_file.may_crash(content):
            trial = model_check.check_file(model, row.sha256, copy / EXAMPLE_FILE, kind, trusted)
            if not trial.passed:
                raise model_file.ModelFileError(trial.detail)
        compare_with_example(model, row.sha256, copy / EXAMPLE_FILE, kind, trusted)
        pipeline = model_file.load_model(content, row.sha256, f"version {row.version}", trusted)
        if missing := train.list_missing_features(state, pipeline):
            raise MissingFeaturesError(f"the YAML no longer makes {', '.join(missing)}: retrain")
        newest = read_features(state, sorted(state.built())[-3:]).select(state.feature_names)
        quick, how = build_quick_model(pipeline, kind, newest.tail(TRIED_ROWS))
        classes = train.get_classes(pipeline)
        names = classes and [*map(str, classes)]
        booleans = frozenset(name for name, kind in newest.schema.items() if kind == pl.Boolean)
        return Version(row, pipeline, quick, how, source, names, booleans)


@dataclass(frozen=True)
class Serving:
    """The version and layer that answer at one moment.

    Args:
        version: The version in production.
        maker: Computes features of rows.
        shadow: A held candidate, whose predictions are logged and not returned.
        half_width: How far an interval reaches on each side of a prediction; None without one.
        layer: The adaptive layer, while it serves.
    """

    version: Version
    maker: FeatureMaker
    shadow: Version | None = None
    half_width: float | None = None
    layer: ServedLayer | None = None


class ServedModel:
    """A model that follows its ledger and its lookups.

    Args:
        state: The model.
        folder: Where verified copies of model files are kept.
        report: Takes a line for whoever runs the service.
    """

    def __init__(self, state: ModelState, folder: Path, report: Callable[[str], None]) -> None:
        self.state, self.name = state, state.spec.name
        self.serving: Serving | None = None
        self.troubles: dict[str, str] = {}
        self.failures = 0
        self.lookups: dict[str, LookupRows] = {}
        self._loader, self._report = Loader(state, folder), report
        self._layer_of: tuple[Any, ...] = ()
        self._old_state: in_service.OldStateError | None = None
        self._members: tuple[Version, ...] = ()
        self._intervals_of: tuple[LedgerRow, int | None] | None = None
        self._refused: dict[str, tuple[LedgerRow, datetime, VersionError]] = {}

    @property
    def ready(self) -> bool:
        """Return whether it answers."""
        return self.serving is not None

    def refresh(self) -> bool:
        """Replace what has changed in ledger or lookups; return whether anything was replaced."""
        before = self.serving
        steps = {
            "lookups": self._read_lookups,
            "version": self._follow,
            "layer": self._follow_layer,
            "intervals": self._read_intervals,
        }
        for what, step in steps.items():
            try:
                step()
            except (Exception, PanicException) as error:  # noqa: BLE001 the old one stays
                self._fail(what, f"{self.name}: {error}")
            else:
                self.troubles.pop(what, None)
        return self.serving is not before

    def _follow(self) -> None:
        history = self.state.ledger.read()
        row = history.production
        if row is None and self.state.spec.group != self.name:
            return  # the pooled model answers
        if row is None:
            raise LookupError("nothing is in production yet")
        serving = self.serving
        if serving is None or not _is_same(serving.version.row, row):
            version = self._load("version", row)
            # With the layer at once, so that no request in between is answered without it.
            layer = self._try_layer(history, version)
            self._report_layer(serving.layer if serving else None, layer)
            serving = self.serving = Serving(version, self._new_maker(), layer=layer)
            self._report(
                f"{self.name}: version {version.number} answers, from {version.source}; "
                f"{version.how}"
            )
            self._loader.delete_copies(history)
        last = history.on_versions[-1]
        self._follow_shadow(serving, last if last.action == "hold" else None)

    def _follow_layer(self) -> None:
        """Take over a new state, or new members, once they are stored."""
        serving, state = self.serving, self.state
        if serving is None or state.spec.layer.mode != "auto":
            return
        history = state.ledger.read()
        if serving.layer is not None and not in_service.is_in_service(state, history):
            self._report_layer(serving.layer, None)
            serving = self.serving = replace(serving, layer=None)
        if history.production is None or history.production.version != serving.version.number:
            return  # the state of a version that does not answer yet
        names = (state.dataset.name, *state.lookups)
        tables = [state.table("adaptation"), *(f"{name}/files" for name in names)]
        basis = (history.version, *(state.tables.version(table) for table in tables))
        if self._layer_of != basis:
            layer, self._old_state = None, None
            try:
                layer = self._load_layer(history, serving.version)
            except in_service.OldStateError as error:
                self._old_state = error
            self._report_layer(serving.layer, layer)
            self.serving, self._layer_of = replace(serving, layer=layer), basis
        if self._old_state is not None:
            raise self._old_state

    def _try_layer(self, history: History, version: Version) -> ServedLayer | None:
        """Return the layer with a new version; None where it cannot serve, which is told later."""
        self._layer_of = ()
        try:
            return self._load_layer(history, version)
        except (Exception, PanicException):  # noqa: BLE001 the version answers alone until then
            return None

    def _load_layer(self, history: History, version: Version) -> ServedLayer | None:
        newest = in_service.read_newest(self.state, history)
        if newest is None:
            return None
        loaded = {member.row.sha256: member for member in (version, *self._members)}
        older = []
        for row in newest.members[1:]:
            try:
                older.append(loaded.get(row.sha256) or self._load(f"member {row.version}", row))
            except VersionError as error:
                if not isinstance(error.__cause__, MissingFeaturesError):
                    raise  # a member whose features are no longer made is left out, as in batch
        self._members = (version, *older)
        return ServedLayer(newest, (*older,))

    def _report_layer(self, before: ServedLayer | None, layer: ServedLayer | None) -> None:
        if (before is None) != (layer is None):
            text = "answers alone" if layer is None else "answers with the adaptive layer"
            self._report(f"{self.name}: the newest version {text}")

    def _follow_shadow(self, serving: Serving, row: LedgerRow | None) -> None:
        if _is_same(serving.shadow.row if serving.shadow else None, row):
            return
        shadow = self._load("shadow", row) if row else None
        self.serving = replace(serving, shadow=shadow)
        message = f"version {shadow.number} predicts in its shadow" if shadow else "no shadow"
        self._report(f"{self.name}: {message}")

    def _load(self, role: str, row: LedgerRow) -> Version:
        """Load a version; one that was refused is tried again after a while."""
        if role in self._refused:
            refused, since, reason = self._refused[role]
            waited = (datetime.now(UTC) - since).total_seconds()
            if _is_same(refused, row) and waited < RETRY_SECONDS:
                raise reason
        try:
            return self._loader.load(row)
        except VersionError as error:
            self._refused[role] = (row, datetime.now(UTC), error)
            raise

    def _read_lookups(self) -> None:
        tables = self.state.tables
        for name, spec in self.state.lookups.items():
            table = f"{name}/dataset"
            description = tables.describe(table)
            if description is None:
                raise LookupError(f"lookup {name} was never ingested")
            version, changed, *_ = description
            if name in self.lookups and self.lookups[name].version == version:
                continue
            tables.verify(table, None, version)
            scan = tables.scan(table, version=version).select(*get_lookup_schema(spec))
            stored = tables.collect(scan, table, version)
            rows = drop_replaced(stored, self.state.spec.lookups[name], spec)
            self.lookups = self.lookups | {name: LookupRows(version, changed, rows, _max_age(spec))}
        serving = self.serving
        if serving is not None and serving.maker.lookups is not self.lookups:
            self.serving = replace(serving, maker=self._new_maker())

    def _read_intervals(self) -> None:
        """Read how far intervals reach, once new errors are stored or another version answers."""
        serving, state = self.serving, self.state
        if serving is None or state.spec.intervals is None:
            return
        row = serving.version.row
        errors = state.tables.version(state.table("prediction_profile"))
        if self._intervals_of == (row, errors):
            return
        timeline = read_timeline(state, state.ledger.read(), row)
        self.serving = replace(serving, half_width=timeline.next if timeline else None)
        self._intervals_of = (row, errors)

    def _new_maker(self) -> FeatureMaker:
        maker = FeatureMaker(self.state, self.lookups)
        reason = maker.prepare(maker.stored_rows())
        if reason is not None:
            self._report(f"{self.name}: features are made by polars for each request: {reason}")
        return maker

    def _fail(self, what: str, message: str) -> None:
        """Report a trouble once, for as long as it is the same."""
        if self.troubles.get(what) != message:
            self.failures += 1
            self.troubles[what] = message
            self._report(message)


def _max_age(spec: DatasetSpec) -> timedelta | None:
    """Return the age at which another partition of a dataset should have landed."""
    period = spec.partition.period
    if spec.expected is None or period is None:
        return None
    return period.longest + duration(spec.expected)


def _is_same(first: LedgerRow | None, second: LedgerRow | None) -> bool:
    """Return whether two decisions are about the same file of a version."""
    if first is None or second is None:
        return first is second
    return (first.version, first.sha256) == (second.version, second.sha256)
