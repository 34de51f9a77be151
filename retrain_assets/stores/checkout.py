"""The code that runs: the commit of the project's git checkout, and the installed packages.

Not here: whether its code is that of a model.
"""

import subprocess
from functools import cache
from importlib.metadata import distributions


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


@cache
def installed() -> dict[str, str]:
    """Return the version of each installed package."""
    return {package.metadata["Name"]: package.version for package in distributions()}
