"""Landing files in an object store: S3, Google Cloud Storage, Azure, by the client of delta-rs.

No error repeats the text of a store. Not here: how files are named, and what their rows are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from retrain_assets.domain.data.row_checks import RawRows
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.landing import source
from retrain_assets.stores.landing.source import Ignored, LandingFile
from retrain_assets.stores.place import describe_error, open_store

try:
    import obstore
    from obstore.exceptions import BaseError
except ImportError as error:
    raise RuntimeError("obstore is missing: pip install 'retrain-assets[objects]'") from error

# A sensor's tick has 60 seconds, and one request may take 30 before it counts as failed.
_LIST_SECONDS, _READ_SECONDS, _RETRIES = 10, 120, 4


@dataclass(frozen=True)
class ObjectFiles(source.NamedFiles):
    """The landing files of one dataset, in an object store.

    Args:
        spec: The dataset.
        root: The URI of the bucket or folder in which the pattern of file names starts.
    """

    spec: DatasetSpec
    root: str

    def entries(self, since: str | None, ignored: Ignored | None) -> Iterator[tuple[str, Any]]:  # noqa: ARG002
        """Yield the objects below the folder of the pattern, with the metadata of each.

        Only keys from `since` on are listed, where nothing before `{partition}` varies.
        """
        *folders, _ = self.parts
        fixed = list(takewhile(lambda part: not re.search(r"[*{]", part), folders))
        first = self.first_name(self.parts[len(fixed)], since)
        offset = "/".join([*fixed, first]) if first else None
        try:
            pages = obstore.list(self._store(_LIST_SECONDS), "/".join(fixed) or None, offset=offset)
            yield from ((meta["path"], meta) for page in pages for meta in page)
        except (BaseError, OSError) as error:
            reason = describe_error(error)
        else:
            return
        raise source.LandingError(f"{self.root}/{self.spec.pattern} cannot be listed: {reason}")

    def describe(self, path: str, key: str | None, entry: Any) -> LandingFile:
        """Return an object as listed; a listing tells its time more exactly than a download."""
        seconds = int(entry["last_modified"].timestamp())
        stamp = f"{entry['size']:x}-{seconds:x}-{(entry['e_tag'] or '').strip(chr(34))}"
        return LandingFile(path, key, entry["size"], stamp, seconds * 10**9)

    def read(self, file: LandingFile, /) -> RawRows:
        """Read an object as a whole: one version of it, of which the stamp is kept.

        An object is refused where it is missing or too large.
        """
        reason = ""
        for _ in range(source.ATTEMPTS):
            try:
                answer = obstore.get(self._store(_READ_SECONDS), file.path)
                if excess := source.too_large(answer.meta["size"], self.spec):
                    return source.refused(file, excess)
                content = answer.bytes().to_bytes()
            except FileNotFoundError:
                return source.refused(file, "there is no such object: deliver it again")
            except (BaseError, OSError) as error:
                reason = describe_error(error)
            else:
                version = self.describe(file.path, file.partition, answer.meta)
                return source.parsed(version, content, self.spec)
        raise source.LandingError(f"{self.root}/{file.path} cannot be read: {reason}")

    def _store(self, seconds: int) -> Any:
        return open_store(self.root, seconds, _RETRIES)
