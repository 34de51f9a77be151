"""The facts that the triggering policy decides on, and its answers.

Not here: the causes, and the decision whether to retrain.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl


@dataclass(frozen=True)
class Production:
    """The model in production, as the policy sees it.

    Args:
        version: Its number.
        as_of: Last partition it was decided on.
        trained_through: Last partition it was trained on.
        recipe: Digest of what it was trained with.
    """

    version: int
    as_of: str
    trained_through: str
    recipe: str


@dataclass(frozen=True)
class HeldCandidate:
    """A candidate that the gate could not tell from production.

    Args:
        version: Its number.
        more_partitions: Further mature partitions that it would probably take.
    """

    version: int
    more_partitions: int


@dataclass(frozen=True)
class Pause:
    """A pause of retraining that a person wants.

    Args:
        until: First partition as of which retraining may be asked for again.
        reason: Why.
        by: The name of that person.
    """

    until: str
    reason: str
    by: str


@dataclass(frozen=True)
class Situation:
    """Everything a decision depends on.

    Args:
        mature: Complete, label-mature partitions in order.
        needed: Partitions the training and holdout windows need together.
        recipe: Digest of what would be trained now.
        production: The model in production; None before the first.
        last_decision: As-of of the newest decision of the gate; None before the first.
        last_recipe: Digest of what was trained for it.
        monitoring: Rows of the monitoring table.
        pause: The pause that a person wants, if there is one.
        refusals: By cause, candidates that it asked for and that were not promoted, since the last
            one that was.
        held_candidate: The candidate of that newest decision, where it was held, may yet be shown
            to be better than the same production, and is what would be trained now.
        last_gate: Digest of the gate of that decision; None where it is not known.
        unbuilt: How many complete partitions have no monitoring of their present data and spec.
        shortage: Why the rows of a segment are too few to train on; empty where they suffice.
    """

    mature: tuple[str, ...]
    needed: int
    recipe: str
    production: Production | None
    last_decision: str | None
    last_recipe: str | None
    monitoring: pl.DataFrame
    pause: Pause | None = None
    refusals: Mapping[str, int] = field(default_factory=dict)
    held_candidate: HeldCandidate | None = None
    last_gate: str | None = None
    unbuilt: int = 0
    shortage: str = ""


class Answer(NamedTuple):
    """The answer of a rule: whether it asks for retraining, and why or why not."""

    fired: bool
    reason: str


@dataclass(frozen=True)
class Expectation:
    """The partition as of which the next decision is expected.

    Args:
        partitions: After how many further mature partitions; None where only a cause can bring it.
        reason: What brings it.
    """

    partitions: int | None
    reason: str


@dataclass(frozen=True)
class Cause:
    """The answer of one cause as of a partition."""

    cause: str
    fired: bool
    reason: str
    as_of: str | None


@dataclass(frozen=True)
class Request:
    """The outcome: whether to retrain as of a partition, and the answer of every cause.

    With `held_version`, that version is judged again instead of fitting another.
    """

    retrain: bool
    reason: str
    as_of: str | None
    causes: tuple[Cause, ...]
    held_version: int | None = None

    @property
    def fired(self) -> tuple[str, ...]:
        """Return the names of the causes that ask for retraining."""
        return tuple(cause.cause for cause in self.causes if cause.fired)
