"""Landing files in an object store: S3, Google Cloud Storage, Azure, by the client of delta-rs.

What it is told (addresses, credentials, a proxy) comes from the environment, by the names that
delta-rs reads, and no error repeats any of it. Not here: how files are named, and what their rows
are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from retrain_assets.stores.landing.source import (
    ATTEMPTS,
    LandingError,
    LandingFile,
    Names,
    PassedOverError,
    parsed,
    refused,
    too_large,
)

try:
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import from_url
except ImportError as error:
    raise RuntimeError("obstore is missing: pip install 'retrain-assets[objects]'") from error

from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.landing.source import Ignored, RawFile

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import RetryConfig

# A sensor's tick has 60 seconds, and one request may take 30 before it counts as failed.
_LIST_SECONDS, _READ_SECONDS, _RETRIES = 10, 120, 4
_SAID = [r"<Code>(\w{1,60})</Code>", r"status code: (\d{3})", r"HTTP error: ([a-z ]{1,60})"]


@dataclass(frozen=True)
class ObjectFiles:
    """The landing files of one dataset, in a bucket.

    Args:
        spec: The dataset.
    """

    spec: DatasetSpec

    @cached_property
    def _names(self) -> Names:
        return Names(self.spec)

    def files(
        self, since: str | None = None, ignored: Ignored | None = None, /
    ) -> list[LandingFile]:
        """All finished objects that the pattern names, by partition and path.

        Only keys from `since` on are asked for, where nothing before `{partition}` varies.
        """
        *folders, _ = parts = self._names.parts
        fixed = list(takewhile(lambda part: not re.search(r"[*{]", part), folders))
        least = self._names.least(parts[len(fixed)], since)
        offset = "/".join([*fixed, least]) if least else None
        found = []
        try:
            pages = obstore.list(self._store(_LIST_SECONDS), "/".join(fixed) or None, offset=offset)
            for meta in (one for page in pages for one in page):
                try:
                    key = self._names.partition(meta["path"])
                except PassedOverError as why:
                    self._names.pass_over(meta["path"], why, ignored)
                    continue
                if not (since and key and key < since):
                    found.append(_file(meta, key))
        except (BaseError, OSError) as error:
            reason = _reason(error)
        else:
            return sorted(found, key=lambda file: (file.partition or "", file.path))
        raise LandingError(f"{self.spec.landing} cannot be listed: {reason}")

    def read(self, file: LandingFile, /) -> RawFile:
        """Read an object whole: one version of it, of which the stamp is kept.

        One that has gone or is too large is refused.
        """
        reason = ""
        for _ in range(ATTEMPTS):
            try:
                got = obstore.get(self._store(_READ_SECONDS), file.path)
                if why := too_large(got.meta["size"], self.spec):
                    return refused(file, why)
                content = got.bytes().to_bytes()
            except FileNotFoundError:
                return refused(file, "there is no such object: deliver it again")
            except (BaseError, OSError) as error:
                reason = _reason(error)
            else:
                seen = _file(got.meta, file.partition)
                return parsed(replace(seen, path=file.path), content, self.spec)
        raise LandingError(f"{self.spec.bucket}/{file.path} cannot be read: {reason}")

    def _store(self, seconds: int) -> Any:
        retries: RetryConfig = {
            "max_retries": _RETRIES,
            "retry_timeout": timedelta(seconds=seconds),
        }
        return from_url(self.spec.bucket or "", retry_config=retries)


def _file(meta: ObjectMeta, key: str | None) -> LandingFile:
    """An object as it was seen; a listing tells its time more exactly than a download."""
    seconds = int(meta["last_modified"].timestamp())
    stamp = f"{meta['size']:x}-{seconds:x}-{(meta['e_tag'] or '').strip(chr(34))}"
    return LandingFile(meta["path"], key, meta["size"], stamp, seconds * 10**9)


def _reason(error: Exception) -> str:
    """What the store said, in its own word for it and without its text, which may hold secrets."""
    found = (match[1] for form in _SAID if (match := re.search(form, str(error))))
    said = next(found, type(error).__name__)
    return f"{said}; see to the store, its address and the credentials in the environment"
