"""The commit of the project's git checkout, so that it can be checked out again.

Not here: whether its code is that of a model.
"""

import subprocess
from functools import cache


@cache
def checkout() -> str:
    """Return the commit, with `-dirty` if files differ from it; empty outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        output = subprocess.run(  # noqa: S603 no shell, and nothing of it is anybody's input
            command, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return output.stdout.strip()
