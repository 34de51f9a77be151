"""Landing files in an object store: S3, Google Cloud Storage, Azure, by the client of delta-rs.

Addresses, credentials and a proxy come from the environment, by the names that delta-rs reads, and
no error repeats any of them. Not here: how files are named, and what their rows are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile
from typing import Any

from retrain_assets.domain.data.row_checks import RawRows
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.landing import source
from retrain_assets.stores.landing.source import Ignored, LandingFile

try:
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import from_url
except ImportError as error:
    raise RuntimeError("obstore is missing: pip install 'retrain-assets[objects]'") from error

# A sensor's tick has 60 seconds, and one request may take 30 before it counts as failed.
_LIST_SECONDS, _READ_SECONDS, _RETRIES = 10, 120, 4
_CODES = [r"<Code>(\w{1,60})</Code>", r"status code: (\d{3})", r"HTTP error: ([a-z ]{1,60})"]


@dataclass(frozen=True)
class ObjectFiles(source.NamedFiles):
    """The landing files of one dataset, in a bucket.

    Args:
        spec: The dataset.
    """

    spec: DatasetSpec

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
            reason = _reason(error)
        else:
            return
        raise source.LandingError(f"{self.spec.landing} cannot be listed: {reason}")

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
                reason = _reason(error)
            else:
                version = self.describe(file.path, file.partition, answer.meta)
                return source.parsed(version, content, self.spec)
        raise source.LandingError(f"{self.spec.bucket}/{file.path} cannot be read: {reason}")

    def _store(self, seconds: int) -> Any:
        timeout = timedelta(seconds=seconds)
        retries: Any = {"max_retries": _RETRIES, "retry_timeout": timeout}
        return from_url(self.spec.bucket or "", retry_config=retries)


def _reason(error: Exception) -> str:
    """Return the store's own word for an error without its text, which may hold secrets."""
    codes = (match[1] for form in _CODES if (match := re.search(form, str(error))))
    code = next(codes, type(error).__name__)
    return f"{code}; see to the store, its address and the credentials in the environment"
