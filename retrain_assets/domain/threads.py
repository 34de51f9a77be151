"""Keep libraries that compute to one thread, since runs at work at once would wait for each other.

Not here: how many threads a fit gets.
"""

from functools import lru_cache
from typing import Any


def one_thread(library: str) -> Any:
    """Return a context in which the libraries that are loaded use one thread.

    Args:
        library: What computes, such as the module of an estimator; it is loaded by now.
    """
    return _find_libraries(library).limit(limits=1)


@lru_cache
def _find_libraries(_: str) -> Any:
    """Return the libraries that are loaded; to look for them takes 3 ms, longer than many steps."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
