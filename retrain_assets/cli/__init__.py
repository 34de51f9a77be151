"""`retrain`: the commands for what the Dagster UI has no button for.

Results go to standard output (as JSON with `--json`), progress and errors to standard error. The
exit code is 0, or not 0 with one line that gives the reason. Not here: the work of a command,
which is done by `steps` and `serving`.
"""

from retrain_assets.cli import decide, inspect, lifecycle, replay, run, serve, start, storage
from retrain_assets.cli.base import main

__all__ = ["decide", "inspect", "lifecycle", "main", "replay", "run", "serve", "start", "storage"]
