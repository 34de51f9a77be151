"""The YAML of the adaptive layer.

Not here: how it learns (`domain.adaptation`).
"""

from typing import Literal

from pydantic import Field

from retrain_assets.specs.base import Spec

AdaptMode = Literal["off", "shadow", "auto"]
MOST_DELAY = 3  # partitions that labels come late, up to which the layer serves by default


class AdaptSpec(Spec):
    """The adaptive layer: a small model over the newest versions, moved by each new partition.

    Args:
        mode: `shadow` learns it and serves nothing by it; `auto` also lets it serve once it is
            shown not to be worse than the newest version alone.
        members: Number of newest versions that it mixes.
        max_age: Number of mature partitions after which its state is too old to serve.
    """

    mode: AdaptMode = "auto"
    members: int = Field(5, ge=1, le=10)
    max_age: int = Field(7, ge=1)


def choose_mode(delay: int, metric: str) -> AdaptMode:
    """Return the mode of a model whose YAML names none; the layer predicts means, no quantiles."""
    if metric == "pinball":
        return "off"
    return "auto" if delay <= MOST_DELAY else "shadow"
