"""What people are told of the service: troubles, left where `<m>_messages` reads them.

A trouble is left once, when it begins. Not here: sending, and what is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain_assets.domain.monitoring import PERFORMANCE
from retrain_assets.steps.messages import leave

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from retrain_assets.serving.follow import Followed
    from retrain_assets.serving.live import Live


class Events:
    """The troubles of a service.

    Args:
        models: By name.
        lives: What is seen of their live streams.
        clock: Says the time.
    """

    def __init__(
        self,
        models: Mapping[str, Followed],
        lives: Mapping[str, Live],
        clock: Callable[[], datetime],
    ) -> None:
        self._models, self._lives, self._clock = models, lives, clock
        self._told: dict[str, dict[str, str]] = {}

    def leave(self) -> None:
        """Leave what has begun since it was last asked."""
        now = self._clock()
        for name, model in self._models.items():
            found, told = dict(self._troubles(name, now)), self._told.get(name, {})
            if fresh := {cause: text for cause, text in found.items() if cause not in told}:
                leave(model.state, fresh, now)
            self._told[name] = found

    def _troubles(self, name: str, now: datetime) -> Iterator[tuple[str, str]]:
        """Cause and sentence of all that is wrong with a model now."""
        model = self._models[name]
        yield from model.trouble.items()
        for lookup, held in model.held.items():
            if held.bound is not None and now - held.changed > held.bound:
                yield f"lookup {lookup}", f"{name}: lookup {lookup} is stale since {held.changed}"
        for found in self._lives[name].observations:
            if found.role == PERFORMANCE and found.alert:
                said = f"{found.statistic:.3g}, its bound {found.threshold:.3g}"
                yield f"live {found.measure}", f"{name}: live {found.measure} is {said}"
