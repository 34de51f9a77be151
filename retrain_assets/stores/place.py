"""Places: a folder of this machine, or one of an object store, behind the same few methods.

A file is written as a whole or not at all, and no error of a store repeats its text, which may hold
secrets. Addresses and credentials of stores come from the environment, by the names that delta-rs
reads. Not here: what lies where (`storage.py`), and what Delta and MLflow store themselves.
"""

import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self
from uuid import uuid4

STORES = ("s3", "gs", "az")
SECONDS, RETRIES = 60, 6
_SETTINGS = ("AWS_", "GOOGLE_", "AZURE_")
_CODES = [r"<Code>(\w{1,60})</Code>", r"status code:? (\d{3})", r"HTTP error:? ([a-z ]{0,59}[a-z])"]
_KEYS = {  # the settings with credentials, by what stands in an error
    "GCS": "GOOGLE_SERVICE_ACCOUNT",
    "MicrosoftAzure": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
}
_REMEDIES = {  # by what stands in an error
    "<Code>NoSuchBucket": "create the bucket, or let RETRAIN_STORAGE name another",
    r"<Code>\w*Expired": "renew {keys} and run it again; nothing is half done",
    "<Code>(InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken)": "see to {keys}",
    "IMDS|//169.254.169.254|loading credentials": "no credentials: set {keys}, or give this "
    "machine a role",
    "Received redirect": "the bucket is in another region: set AWS_REGION",
    "error sending request": "nothing answers: see to the network and to the address of the store, "
    "such as AWS_ENDPOINT_URL",
    "": "see to the store, its address and the credentials in the environment",
}


class PlaceError(OSError):
    """A store does not do what it was asked for now; the message says what would help."""


class Stored(NamedTuple):
    """A file or object.

    Args:
        name: Below the place, with forward slashes.
        size_bytes: Its length.
        modified_ns: When it was written, in nanoseconds since 1970.
        stamp: Changes when the content does.
    """

    name: str
    size_bytes: int
    modified_ns: int
    stamp: str


class Place(Protocol):
    """A folder; `place / name` is one below it, and `str(place)` its path or URI."""

    is_local: ClassVar[bool]

    @property
    def memory(self) -> dict[str, Any]:
        """Return what was opened or verified in a store so far; nothing of a folder."""

    def __truediv__(self, name: str) -> "Place": ...

    def files(self) -> list[Stored]:
        """Return all files below it, at any depth, by name."""

    def folders(self) -> list[str]:
        """Return the names of the folders directly below it."""

    def find(self, name: str) -> Stored | None:
        """Return what is known of a file; None if there is none."""

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: There is none.
            PlaceError: The store does not give it.
        """

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in place of the one that is there."""

    def write_new(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one; return whether it was written."""

    def delete(self, name: str) -> None:
        """Delete a file, if there is one."""

    def clear(self) -> None:
        """Delete everything below it."""


def is_object_uri(root: Path | str) -> bool:
    """Tell if a root is in an object store, such as `s3://bucket/folder`."""
    return isinstance(root, str) and root.partition("://")[0] in STORES and "://" in root


def place_at(root: Path | str) -> Place:
    """Return the place of a path, or of a URI such as `s3://bucket/folder`."""
    return Bucket(str(root).rstrip("/")) if is_object_uri(root) else Folder(Path(root))


@dataclass(frozen=True)
class Folder:
    """A folder of this machine, or one that it mounts."""

    path: Path
    is_local: ClassVar[bool] = True

    @property
    def memory(self) -> dict[str, Any]:
        """Nothing, since opening a file again costs little."""
        return {}

    def __truediv__(self, name: str) -> Self:
        return type(self)(self.path / name)

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    def files(self) -> list[Stored]:
        """Return all files below it, at any depth, by name."""
        names = (
            f"{folder}/{name}"[len(str(self.path)) + 1 :]
            for folder, _, names in os.walk(self.path)
            for name in names
        )
        return [item for item in map(self.find, sorted(names)) if item]

    def folders(self) -> list[str]:
        """Return the names of the folders directly below it."""
        return sorted(path.name for path in self.path.glob("*") if path.is_dir())

    def find(self, name: str) -> Stored | None:
        """Return what is known of a file; None if there is none."""
        try:
            status = (self.path / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        stamp = f"{status.st_size:x}-{status.st_mtime_ns:x}"
        return Stored(name, status.st_size, status.st_mtime_ns, stamp)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write a file beside its place, and move it there at once."""
        with self._part(name, content) as part:
            part.replace(self.path / name)

    def write_new(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one; return whether it was written."""
        with self._part(name, content) as part:
            try:
                os.link(part, self.path / name)
            except FileExistsError:
                return False
        return True

    def delete(self, name: str) -> None:
        """Delete a file, if there is one."""
        (self.path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete the folder with everything below it."""
        if self.path.exists():
            shutil.rmtree(self.path)

    @contextmanager
    def _part(self, name: str, content: bytes) -> Iterator[Path]:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{uuid4().hex}.part")
        try:
            part.write_bytes(content)
            yield part
        finally:
            part.unlink(missing_ok=True)


@dataclass(frozen=True)
class Client:
    """The client of one bucket.

    Args:
        api: The module `obstore`.
        store: Its store.
        memory: What was opened or verified in the bucket, for as long as the process lives.
    """

    api: Any
    store: Any
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bucket:
    """A folder of an object store: S3, Google Cloud Storage or Azure.

    Args:
        uri: Such as `s3://bucket/folder`, with no slash at its end.
    """

    uri: str
    is_local: ClassVar[bool] = False

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.uri}/{name}")

    def __str__(self) -> str:
        return self.uri

    @property
    def client(self) -> Client:
        """The client of the bucket, by the settings of the environment."""
        scheme, _, rest = self.uri.partition("://")
        return open_client(f"{scheme}://{rest.partition('/')[0]}", read_settings())

    @property
    def memory(self) -> dict[str, Any]:
        """Return what was opened or verified in the bucket while the process lives."""
        return self.client.memory

    def files(self) -> list[Stored]:
        """Return all objects below it, by name."""
        key = self._key("")
        entries = [meta for page in self._call("list", key) for meta in page]
        return sorted(_describe(meta["path"].removeprefix(key), meta) for meta in entries)

    def folders(self) -> list[str]:
        """Return the names of the folders directly below it."""
        result = self._call("list_with_delimiter", self._key(""))
        return sorted(path.rpartition("/")[2] for path in result["common_prefixes"])

    def find(self, name: str) -> Stored | None:
        """Return what is known of an object; None if there is none."""
        try:
            return _describe(name, self._call("head", self._key(name)))
        except FileNotFoundError:
            return None
        except PlaceError:
            self.read(name)  # a store says why only where it may answer with a text
            raise

    def read(self, name: str) -> bytes:
        """Return the content of an object; what came before a connection was cut is read again."""
        get = self.client.api.get
        content: bytes = self._attempt(
            self._key(name), lambda store, key: get(store, key).bytes().to_bytes()
        )
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write an object; a store shows it as a whole or not at all."""
        self._call("put", self._key(name), content)

    def write_new(self, name: str, content: bytes) -> bool:
        """Write an object unless there is one; return whether it was written."""
        try:
            self._call("put", self._key(name), content, mode="create", use_multipart=False)
        except FileExistsError:
            return False
        return True

    def delete(self, name: str) -> None:
        """Delete an object, if there is one."""
        try:
            self._call("delete", self._key(name))
        except FileNotFoundError:
            return

    def clear(self) -> None:
        """Delete all objects below it."""
        if keys := [self._key(item.name) for item in self.files()]:
            self._call("delete", keys)

    def _key(self, name: str) -> str:
        _, _, rest = self.uri.partition("://")
        folder = rest.partition("/")[2]
        return f"{folder}/{name}" if folder else name

    def _call(self, method: str, key: Any, *arguments: Any, **options: Any) -> Any:
        """Call a function of obstore; a listing is read to its end within."""
        call = getattr(self.client.api, method)

        def run(store: Any, key: Any) -> Any:
            result = call(store, key, *arguments, **options)
            return list(result) if method == "list" else result

        return self._attempt(key, run)

    def _attempt(self, key: Any, call: Callable[[Any, Any], Any]) -> Any:
        client, name = self.client, f"{self.uri.partition('://')[0]}://…/{key}"
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            return call(client.store, key)
        except FileNotFoundError as error:
            reason = describe_error(error)
            number = 0 if reason.startswith("NoSuchBucket") else errno.ENOENT
        except AlreadyExistsError:
            number = errno.EEXIST
        except (BaseError, OSError) as error:
            number, reason = 0, describe_error(error)
        if number:  # raised here, where no error of the store is attached to it
            raise OSError(number, os.strerror(number), str(name))
        raise PlaceError(f"{self.uri}: {reason}")


def read_settings() -> tuple[tuple[str, str], ...]:
    """Return the settings of object stores in the environment."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(_SETTINGS)))


@lru_cache(maxsize=32)
def open_client(bucket: str, settings: tuple[tuple[str, str], ...]) -> Client:
    """Return the client of a bucket, one for as long as the settings are the same.

    Args:
        bucket: Such as `s3://bucket`.
        settings: `read_settings`; the client reads them from the environment itself.

    Raises:
        RuntimeError: The library is not installed.
    """
    del settings
    try:
        import obstore
    except ImportError as error:
        raise RuntimeError("obstore is missing: pip install 'retrain-assets[objects]'") from error
    return Client(obstore, open_store(bucket, SECONDS, RETRIES))


def open_store(uri: str, seconds: int, retries: int) -> Any:
    """Return obstore's client of a URI, by the settings of the environment.

    Args:
        uri: Such as `s3://bucket`.
        seconds: After which no further attempt is made.
        retries: How often a request is repeated at most.
    """
    from obstore.store import from_url

    config: Any = {"max_retries": retries, "retry_timeout": timedelta(seconds=seconds)}
    return from_url(uri, retry_config=config)


def describe_error(error: BaseException) -> str:
    """Return the store's code for an error and what would do, without its text and secrets."""
    text, code = as_line(error), find_code(error) or type(error).__name__
    remedy = next(_REMEDIES[form] for form in _REMEDIES if re.search(form, text))
    return f"{code}; {remedy.format(keys=next(_KEYS[name] for name in _KEYS if name in text))}"


def find_code(error: BaseException) -> str | None:
    """Return the store's code for an error, if there is one in its text."""
    text = as_line(error)
    return next((match[1] for form in _CODES if (match := re.search(form, text))), None)


def as_line(error: BaseException) -> str:
    """Return the message of an error in one line, without colours and the trace of Rust."""
    text = re.sub(r"\x1b\[\d+m↳?", " ", str(error).partition("\n   0:")[0])
    return " ".join(text.split())


def _describe(name: str, meta: Any) -> Stored:
    stamp = f"{meta['size']:x}-{(meta['e_tag'] or '').strip(chr(34))}"
    return Stored(name, meta["size"], int(meta["last_modified"].timestamp() * 1e9), stamp)
