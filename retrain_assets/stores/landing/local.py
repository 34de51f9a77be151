"""Landing files in a folder of this machine, or of a file system that it mounts.

Not here: how files are named, and what their rows are.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.stores.landing.source import (
    ATTEMPTS,
    CHANGING,
    Ignored,
    LandingFile,
    Names,
    PassedOverError,
    RawFile,
    as_regex,
    check_finished,
    parsed,
    refused,
    too_large,
)


@dataclass(frozen=True)
class LocalFiles:
    """The landing files of one dataset.

    Args:
        root: The landing folder; it need not be there yet.
        spec: The dataset.
    """

    root: Path
    spec: DatasetSpec

    @cached_property
    def _names(self) -> Names:
        return Names(self.spec)

    def files(
        self, since: str | None = None, ignored: Ignored | None = None, /
    ) -> list[LandingFile]:
        """All finished files that the pattern names, by partition and path.

        Passed over are hidden and unfinished names (`.x`, `x.tmp`, `x.part`), what is no regular
        file or lies outside the root, and names whose `{partition}` is no key of the dataset.
        """
        found = []
        for path in self._paths(self._names.parts, "", since, ignored):
            try:
                key = self._names.partition(path)
                if since and key and key < since:
                    continue
                status = self._status(path)
                if not stat.S_ISREG(status.st_mode):
                    raise PassedOverError("no regular file")  # noqa: TRY301 as the names that are
            except PassedOverError as why:
                self._names.pass_over(path, why, ignored)
            except (FileNotFoundError, NotADirectoryError):
                continue
            else:
                modified = status.st_mtime_ns
                found.append(LandingFile(path, key, status.st_size, _stamp(status), modified))
        return sorted(found, key=lambda file: (file.partition or "", file.path))

    def read(self, file: LandingFile, /) -> RawFile:
        """Read a file whole.

        One that has gone, is too large, or keeps changing while it is read, is refused.
        """
        path = self.root / file.path
        for _ in range(ATTEMPTS):
            try:
                with path.open("rb") as opened:
                    status = os.fstat(opened.fileno())
                    if why := too_large(status.st_size, self.spec):
                        return refused(file, why)
                    content = opened.read()
                unchanged = _stamp(path.stat()) == _stamp(status)
            except OSError as error:
                return refused(file, f"it cannot be read ({error.strerror}): deliver it again")
            if unchanged:
                return parsed(replace(file, stamp=_stamp(status)), content, self.spec)
        return refused(file, CHANGING)

    def _paths(
        self, parts: Sequence[str], below: str, since: str | None, ignored: Ignored | None
    ) -> Iterator[str]:
        """The names in the folders below `below` that match the rest of the pattern."""
        part, rest = parts[0], parts[1:]
        form, least = re.compile(as_regex(part, ".+")), self._names.least(part, since)
        for name in self._listed(below) if re.search(r"[*{]", part) else [part]:
            path = f"{below}/{name}" if below else name
            if name < least:
                continue
            if not rest:
                yield path
            elif form.fullmatch(name):
                try:
                    check_finished(path)
                    self._status(path)
                except PassedOverError as why:
                    self._names.pass_over(path, why, ignored)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                else:
                    yield from self._paths(rest, path, since, ignored)

    def _listed(self, below: str) -> list[str]:
        try:
            # Nothing but its name is read of an old file.
            return os.listdir(self.root / below)  # noqa: PTH208 makes no object of each name
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _status(self, path: str) -> os.stat_result:
        """The status of a file or folder, or of what it links to.

        Raises:
            PassedOverError: That is not below the root.
        """
        place = self.root / path
        status = place.lstat()
        if not stat.S_ISLNK(status.st_mode):
            return status
        if not place.resolve().is_relative_to(self.root.resolve()):
            raise PassedOverError("outside the landing folder")
        return place.stat()


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"
