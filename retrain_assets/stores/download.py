"""One file at a URL, fetched to this machine: from a web server or an object store.

Not here: reading what the file holds.
"""

from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

from retrain_assets.stores.place import is_object_uri, place_at

SCHEMES = ("http", "https")
SECONDS = 60  # without any answer
_PART = 2**20  # bytes


def is_url(text: str) -> bool:
    """Tell if a text names a file of a web server or of an object store."""
    return urlsplit(text).scheme in SCHEMES or is_object_uri(text)


def name_file(url: str) -> str:
    """Return the name of the file of a URL, without folder, query or password."""
    return PurePosixPath(unquote(urlsplit(url).path)).name


def download(url: str, folder: Path, most: int) -> Path:
    """Return the file of a URL, which now is in a folder under its own name.

    Args:
        url: Where it is.
        folder: Where it is put.
        most: A number of bytes; of a longer file on a web server a bit more than these is read.

    Raises:
        ValueError: The URL names no file, or the server does not give it.
    """
    name = name_file(url)
    if not name:
        raise ValueError(f"{urlsplit(url).hostname} names no file: give the URL of one")
    file = folder / name
    if is_object_uri(url):
        place, _, key = url.rpartition("/")
        file.write_bytes(place_at(place).read(key))
        return file
    try:
        # urllib follows redirects to http and https alone.
        with urlopen(url, timeout=SECONDS) as answer, file.open("wb") as to:  # noqa: S310
            while file.stat().st_size <= most and (part := answer.read(_PART)):
                to.write(part)
                to.flush()
    except (OSError, HTTPException, ValueError) as error:
        raise ValueError(f"{name} of {urlsplit(url).hostname} cannot be read: {error}") from error
    return file
