"""Which errors the same work meets again, so that it is useless to repeat it.

Not here: the errors themselves, each of which stands where it is raised.
"""


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
