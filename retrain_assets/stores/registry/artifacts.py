"""MLflow's files in an object store, by the client that tables and reports use.

MLflow's own clients need another library for each kind of store, with other settings. Not here:
what is stored.
"""

from functools import cache
from pathlib import Path
from typing import Any

from retrain_assets.stores.place import STORES, is_object_uri, place_at


def prepare(root: str) -> None:
    """Create the folder for MLflow's files, or let MLflow store them in an object store."""
    if is_object_uri(root):
        from mlflow.store.artifact import artifact_repository_registry

        repositories = artifact_repository_registry.get_registered_artifact_repositories()
        repositories.update(dict.fromkeys(STORES, _repository()))
    elif root:
        Path(root).mkdir(parents=True, exist_ok=True)


@cache
def _repository() -> Any:
    """Return the class, which is made here because importing MLflow takes seconds."""
    from mlflow.entities import FileInfo
    from mlflow.store.artifact.artifact_repo import ArtifactRepository, verify_artifact_path

    class Artifacts(ArtifactRepository):  # type: ignore[misc]
        """The files of a run or model in an object store."""

        def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
            """Store a file."""
            verify_artifact_path(artifact_path)
            name = "/".join(filter(None, (artifact_path, Path(local_file).name)))
            place_at(self.artifact_uri).write(name, Path(local_file).read_bytes())

        def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
            """Store all files of a folder."""
            for path in sorted(Path(local_dir).rglob("*")):
                if path.is_file():
                    below = path.parent.relative_to(local_dir).as_posix()
                    parts = (artifact_path, below if below != "." else None)
                    self.log_artifact(str(path), "/".join(filter(None, parts)) or None)

        def list_artifacts(self, path: str | None = None) -> list[Any]:
            """Return the files and folders directly below a path."""
            place, start = place_at(self.artifact_uri), f"{path}/" if path else ""
            entries = {}
            for file in (place / path if path else place).files():
                name, is_folder, _ = file.name.partition("/")
                size = None if is_folder else file.size_bytes
                entries[name] = FileInfo(f"{start}{name}", bool(is_folder), size)
            return list(entries.values())

        def _download_file(self, remote_file_path: str, local_path: str) -> None:
            Path(local_path).write_bytes(place_at(self.artifact_uri).read(remote_file_path))

        def delete_artifacts(self, artifact_path: str | None = None) -> None:
            """Delete a file, or all files below a folder."""
            place = place_at(self.artifact_uri)
            if artifact_path:
                place.delete(artifact_path)
            (place / artifact_path if artifact_path else place).clear()

    return Artifacts
