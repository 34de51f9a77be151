"""Several candidates in one decision: how sure each has to be, and which of them goes on.

Not here: judging one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from retrain_assets.domain.gate import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

RANK = {Verdict.REJECT: 0, Verdict.HOLD: 1, Verdict.PROMOTE: 2}


def shared(confidence: float, candidates: int) -> float:
    """The confidence of each candidate's interval, which then holds for all of them together.

    So that choosing the best of several promotes what is no better as rarely as judging one does,
    each has its share of the error (Bonferroni). Holm's steps would allow the second and later ones
    more, but only one is promoted, and of that Holm asks what Bonferroni does.

    Args:
        confidence: Of the two-sided interval of one.
        candidates: How many there are.
    """
    return 1 - (1 - confidence) / candidates


def best(verdicts: Sequence[Verdict], gains: Sequence[float]) -> int:
    """Place of the candidate to decide on: the best of those that pass, else of those held.

    Args:
        verdicts: Of each candidate.
        gains: Of each; NaN where it is not known. Of equals the first is taken.
    """
    told = [-math.inf if math.isnan(gain) else gain for gain in gains]
    return max(range(len(verdicts)), key=lambda place: (RANK[verdicts[place]], told[place]))
