"""The storage root, and what lies below it.

Not here: reading or writing any of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.engine import IN_PROCESS, Engine, engine_from
from retrain_assets.stores.landing.source import DeltaSource, LocalFiles, Source
from retrain_assets.stores.ledger import Ledger
from retrain_assets.stores.registry.registry import ModelRegistry
from retrain_assets.stores.tables.tables import Tables


@dataclass(frozen=True)
class Storage:
    """The storage root.

    Args:
        root: Absolute folder that holds landing files, tables, artifacts and reports.
        tracking_uri: MLflow's server or database; below the root by default.
        engine: Computes items of steps that do not depend on each other.
    """

    root: Path
    tracking_uri: str | None = None
    engine: Engine = IN_PROCESS

    @property
    def landing(self) -> Path:
        """The folder to which files are delivered."""
        return self.root / "landing"

    @property
    def cards(self) -> Path:
        """The folder for the cards of model versions."""
        return self.root / "reports" / "cards"

    def report(self, model: str) -> Path:
        """Return the file with the page of a model."""
        return self.root / "reports" / f"{model}.html"

    @property
    def tables(self) -> Tables:
        """The Delta tables."""
        return Tables(str(self.root / "delta"))

    def source(self, spec: DatasetSpec) -> Source:
        """Return the source of the rows of a dataset."""
        if spec.delta is not None:
            return DeltaSource(self.root, spec)
        if spec.bucket is not None:
            from retrain_assets.stores.landing.objects import ObjectFiles

            return ObjectFiles(spec)
        return LocalFiles(self.landing, spec)

    def registry(self, model: str, trusted: Sequence[str] = ()) -> ModelRegistry:
        """Return the MLflow registry of one model, with the types that its YAML trusts."""
        return ModelRegistry(self.mlflow_uri, str(self.root / "artifacts"), model, trusted)

    @property
    def mlflow_uri(self) -> str:
        """The MLflow tracking URI."""
        return self.tracking_uri or f"sqlite:///{self.root / 'mlflow.db'}"

    def ledger(self, model: str) -> Ledger:
        """Return the ledger of one model."""
        return Ledger(self.tables, model)


def project_root(start: Path) -> Path:
    """Find the project that a command is meant for, so that it works from any folder.

    Args:
        start: The current directory.

    Returns:
        The nearest folder at or above `start` that holds a workspace or project of Dagster, else
        `start`, so that no command touches the data of a project that nobody named.
    """
    return next((path for path in (start, *start.parents) if _is_project(path)), start)


def _is_project(folder: Path) -> bool:
    if any((folder / name).exists() for name in ("workspace.yaml", "dg.toml")):
        return True
    settings = folder / "pyproject.toml"
    return settings.exists() and "[tool.dg" in settings.read_text(encoding="utf-8")


def storage_from(environment: Mapping[str, str], start: Path) -> Storage:
    """Return the storage that the environment names, by default `data/` of the project.

    Args:
        environment: `RETRAIN_STORAGE`, `MLFLOW_TRACKING_URI` and `RETRAIN_ENGINE` are read.
        start: The current directory.
    """
    place = Path(environment.get("RETRAIN_STORAGE") or project_root(start) / "data")
    root = place.expanduser().resolve()
    engine = engine_from(environment.get("RETRAIN_ENGINE"), root)
    return Storage(root, environment.get("MLFLOW_TRACKING_URI"), engine)
