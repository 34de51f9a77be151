"""The storage root, in a folder or an object store, and what lies below it.

Not here: reading or writing any of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.database import database_from, name_driver
from retrain_assets.stores.engine import IN_PROCESS, Engine, engine_from
from retrain_assets.stores.landing.foreign import DeltaSource, IcebergSource
from retrain_assets.stores.landing.source import LocalFiles, Source
from retrain_assets.stores.ledger import Ledger
from retrain_assets.stores.place import STORES, Folder, Place, is_object_uri, place_at
from retrain_assets.stores.registry.registry import ModelRegistry
from retrain_assets.stores.tables.tables import Tables


@dataclass(frozen=True)
class Storage:
    """The storage root.

    Args:
        root: Absolute folder that holds landing files, tables, artifacts and reports; or a URI
            such as `s3://bucket/folder`.
        tracking_uri: MLflow's server or database; below the root by default.
        engine: Computes items of steps that do not depend on each other.
        work_folder: Local folder for what cannot be in an object store; the root by default.

    Raises:
        ValueError: The root is in an object store, and nothing says where else MLflow's data are.
    """

    root: Path | str
    tracking_uri: str | None = None
    engine: Engine = IN_PROCESS
    work_folder: Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.root, Path):
            return
        if not {*"@:"}.isdisjoint(self.root.partition("://")[2].partition("/")[0]):
            raise ValueError(
                "RETRAIN_STORAGE has a user or password: leave them out, and set those of the "
                "store, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if not is_object_uri(self.root):
            stores = ", ".join(f"{store}://" for store in STORES)
            raise ValueError(f"RETRAIN_STORAGE={self.root}: use a folder or one of {stores}")
        if not self.tracking_uri:
            raise ValueError(
                f"RETRAIN_STORAGE={self.root} cannot hold MLflow's database: let "
                "MLFLOW_TRACKING_URI name an MLflow server, or a database such as "
                "sqlite:////absolute/path/mlflow.db"
            )

    @property
    def place(self) -> Place:
        """The root, to read, write and list what is below it."""
        return place_at(self.root)

    @property
    def work(self) -> Path:
        """The local folder of the serving log, Dagster's state and locks."""
        if self.work_folder is None:
            return self.local_folder("runs and serving")
        return self.work_folder

    @property
    def landing(self) -> Path:
        """The folder to which files are delivered, for what needs a local one."""
        return self.local_folder("this command") / "landing"

    @property
    def landing_place(self) -> Place:
        """The place to which files are delivered."""
        return self.place / "landing"

    @contextmanager
    def deliver(self) -> Iterator[Path]:
        """Yield a local folder whose files have landed when the block has ended.

        Raises:
            ValueError: Another file of that name is in the object store.
        """
        if isinstance(self.root, Path):
            yield self.landing
            return
        with TemporaryDirectory() as folder:
            source, place = Folder(Path(folder)), self.landing_place
            yield source.path
            for name, *_ in source.files():
                content = source.read(name)
                if not place.write_new(name, content) and place.read(name) != content:
                    raise ValueError(
                        f"{place}/{name} is there already, with other content: choose another "
                        "name, or delete that file"
                    )

    def local_folder(self, what: str) -> Path:
        """Return the root as a folder.

        Raises:
            ValueError: It is in an object store.
        """
        if isinstance(self.root, Path):
            return self.root
        raise ValueError(f"{what} needs a local folder, and RETRAIN_STORAGE is {self.root}")

    @property
    def cards(self) -> Place:
        """The place of the cards of model versions."""
        return self.place / "reports" / "cards"

    @property
    def reports(self) -> Place:
        """The place of the pages of models, as `<model>.html`."""
        return self.place / "reports"

    def report(self, model: str) -> str:
        """Return the path or URI of the page of a model."""
        return f"{self.reports}/{model}.html"

    @property
    def tables(self) -> Tables:
        """The Delta tables."""
        return Tables(str(self.place / "delta"))

    def source(self, spec: DatasetSpec) -> Source:
        """Return the source of the rows of a dataset."""
        if spec.delta is not None:
            return DeltaSource(str(self.root), spec)
        if spec.iceberg is not None:
            return IcebergSource(spec)
        if spec.bucket is None and isinstance(self.root, Path):
            return LocalFiles(self.landing, spec)
        from retrain_assets.stores.landing.objects import ObjectFiles

        return ObjectFiles(spec, spec.bucket or str(self.landing_place))

    def registry(self, model: str, trusted: Sequence[str] = ()) -> ModelRegistry:
        """Return the MLflow registry of one model, with the types that its YAML trusts."""
        return ModelRegistry(self.mlflow_uri, str(self.place / "artifacts"), model, trusted)

    @property
    def mlflow_uri(self) -> str:
        """The MLflow tracking URI."""
        return self.tracking_uri or f"sqlite:///{self.place / 'mlflow.db'}"

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
        environment: `RETRAIN_STORAGE`, `RETRAIN_WORK`, `MLFLOW_TRACKING_URI`, `RETRAIN_DATABASE`
            and `RETRAIN_ENGINE` are read.
        start: The current directory.

    Raises:
        ValueError: The settings do not fit together; the message says what would do.
        DatabaseError: `RETRAIN_DATABASE` names no database that can be used.
    """
    stated, data = environment.get("RETRAIN_STORAGE"), project_root(start) / "data"
    root: Path | str = stated if stated and "://" in stated else _absolute(stated or data)
    work = environment.get("RETRAIN_WORK") or (None if isinstance(root, Path) else data)
    folder = _absolute(work) if work else None
    tracking_uri = environment.get("MLFLOW_TRACKING_URI") or database_from(environment)
    storage = Storage(root, tracking_uri and name_driver(tracking_uri), work_folder=folder)
    return replace(storage, engine=engine_from(environment.get("RETRAIN_ENGINE"), root))


def _absolute(path: Path | str) -> Path:
    return Path(path).expanduser().resolve()
