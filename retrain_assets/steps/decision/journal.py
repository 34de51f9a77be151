"""Keep what a search of settings has tried, so that a run that starts again goes on from there.

Not here: the search itself, and which settings it tries.
"""

from __future__ import annotations

from dataclasses import asdict
from time import perf_counter

import polars as pl

from retrain_assets.domain.data.rules import PARTITION
from retrain_assets.domain.model.search import Journal, Setting
from retrain_assets.steps.state import ModelState, code_digest, digest, lock_digest

TABLE = "search"
SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys((PARTITION, "params"), pl.String()),
    "losses": pl.List(pl.Float64()),
    **dict.fromkeys(("state", "reason"), pl.String()),
    "seconds": pl.Float64(),
}


class StoredJournal(Journal):
    """The settings that one search has tried, in the model's table `search`."""

    def __init__(self, state: ModelState, identity: str) -> None:
        """Read what was tried.

        Args:
            state: The model.
            identity: Names the search by all that its result depends on.
        """
        self.state, self.identity = state, identity
        rows = state.tables.read(state.table(TABLE), [identity], SCHEMA).drop(PARTITION)
        settings = (
            Setting(**{**row, "losses": tuple(row["losses"])}) for row in rows.iter_rows(named=True)
        )
        super().__init__(settings, perf_counter)

    def add(self, setting: Setting) -> None:
        """Store one more setting."""
        super().add(setting)
        rows = [{PARTITION: self.identity, **asdict(item)} for item in self.settings]
        frame = pl.DataFrame(rows, schema=SCHEMA)
        self.state.tables.replace(self.state.table(TABLE), frame, [self.identity], {})


def open_journal(state: ModelState, rows_sha256: str, *, resume: bool) -> Journal | None:
    """Return the journal of a search on some rows; None if the spec has no search.

    Args:
        state: The model.
        rows_sha256: Digest of the training rows.
        resume: Whether the journal is stored, and begins with what a run before this one tried.
    """
    if state.spec.estimator.search is None:
        return None
    if not resume:
        return Journal(clock=perf_counter)
    recipe = (state.recipe, code_digest(state.spec), lock_digest())
    return StoredJournal(state, digest(*recipe, rows_sha256))
