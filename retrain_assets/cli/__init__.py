"""`retrain`: what the UI has no button for.

Results go to standard output (as JSON with `--json`), progress and errors to standard error; the
exit code is 0, or not 0 and one line says why. Not here: doing any of it.
"""

from __future__ import annotations

from retrain_assets.cli import acting, deciding, keeping, landing, looking, replaying, serving
from retrain_assets.cli.root import main

__all__ = ["acting", "deciding", "keeping", "landing", "looking", "main", "replaying", "serving"]
