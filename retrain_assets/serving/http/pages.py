"""The pages for people: the list of models, the report on one, and the cards of its versions.

A page is rendered again only after one of the tables it is read from has a new version. Not here:
what a page shows.
"""

import re
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from retrain_assets.steps.inspect.report import render_models, render_report, report
from retrain_assets.steps.inspect.status import overview
from retrain_assets.steps.state import ModelState
from retrain_assets.stores.place import Place

READ = ("ledger", "pause", "monitoring", "decisions", "watch")


class Pages:
    """The pages of some models, which threads may ask for at once.

    Args:
        states: The models, by name.
        cards: The place of the cards of their versions.
    """

    def __init__(self, states: Mapping[str, ModelState], cards: Place) -> None:
        self._states, self._cards = states, cards
        self._lock, self._results = Lock(), dict[Any, tuple[Any, Any]]()

    def list_models(self) -> str:
        """Return the page of all models."""
        return render_models([self._read(overview, name) for name in sorted(self._states)])

    def show_model(self, name: str) -> str:
        """Return the page of a model."""
        page: str = self._read(_render, name)
        return page

    def show_card(self, name: str, version: str) -> str | None:
        """Return the card of a version; None if it was not written, or is no number."""
        if re.fullmatch("[0-9]{1,18}", version) is None:
            return None
        try:
            return (self._cards / name).read(f"card-{version}.html").decode()
        except FileNotFoundError:
            return None

    def _read(self, make: Callable[[ModelState], Any], name: str) -> Any:
        state = self._states[name]
        tables = [state.table(table) for table in READ]
        tables += [f"{dataset}/files" for dataset in (state.dataset.name, *state.lookups)]
        with self._lock:  # a page takes a second at most, and nobody makes it twice
            versions = [state.tables.version(table) for table in tables]
            if self._results.get((make, name), (None,))[0] != versions:
                self._results[make, name] = versions, make(state)
            return self._results[make, name][1]


def _render(state: ModelState) -> str:
    return render_report(report(state), models="../", cards=f"{state.spec.name}/cards/")
