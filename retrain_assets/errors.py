"""What all errors have in common: whether repeating the work helps, and no secret in their text.

Not here: the errors themselves, each of which stands where it is raised.
"""

from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote


class PermanentError(RuntimeError):
    """An error that the same work meets again until somebody changes something."""


# The errors by which Python says that code or data are wrong.
_WRONG_CODE_OR_DATA = (
    *(ValueError, TypeError, LookupError, AttributeError, NameError, ImportError, SyntaxError),
    *(ArithmeticError, AssertionError, NotImplementedError),
)


def is_permanent(error: BaseException) -> bool:
    """Return whether the same work would fail again.

    A disk, a database or a server that does not answer may answer at the next attempt; some
    libraries raise errors that are both an OSError and a ValueError, and these may pass as well.
    """
    return isinstance(error, (PermanentError, *_WRONG_CODE_OR_DATA)) and not isinstance(
        error, OSError
    )


def mask(text: str, secrets: Mapping[str, str]) -> str:
    """Return a message without secrets, whoever wrote it: a library, a server or this project.

    Args:
        text: The message.
        secrets: What stands instead of each secret; empty secrets are ignored.
    """
    for secret in sorted(
        filter(None, secrets), key=len, reverse=True
    ):  # one may be part of another
        text = text.replace(secret, secrets[secret])
    return text


def mask_password(text: str, uri: str) -> str:
    """Return a message without the password of a URI, as the URI spells it and as it is."""
    _, password = split_uri(uri)
    options = parse_qsl(uri.partition("?")[2])
    secrets = [password, *(value for name, value in options if "password" in name)]
    return mask(text, dict.fromkeys([*secrets, *map(unquote, secrets)], "***"))


def split_uri(uri: str) -> tuple[str, str]:
    """Return user, password and host of a URI, and its password, whatever characters that has."""
    place = uri.partition("://")[2].partition("/")[0].partition("?")[0]
    user, at, _ = place.rpartition("@")
    return place, user.partition(":")[2] if at else ""
