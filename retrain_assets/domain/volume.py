"""Whether partitions hold as many rows as those before them.

Not here: bounds that are given as numbers.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

HISTORY = 28
_ENOUGH = 5


def atypical(
    rows: Mapping[str, int], judged: Collection[str], tolerance: float
) -> list[dict[str, object]]:
    """Partitions whose number of rows is far from the median of the `HISTORY` before them.

    Args:
        rows: Accepted rows of each partition, those judged included.
        judged: Partitions asked about; one with fewer than five before it passes.
        tolerance: Largest difference, as a share of the median.

    Returns:
        Partition, rows and median of each that is too far off, in order.
    """
    keys = sorted(rows)
    found: list[dict[str, object]] = []
    for place, key in enumerate(keys):
        before = [rows[earlier] for earlier in keys[max(0, place - HISTORY) : place]]
        if key not in judged or len(before) < _ENOUGH:
            continue
        typical = median(before)
        if abs(rows[key] - typical) > tolerance * typical:
            found.append({"partition": key, "rows": rows[key], "median_before": typical})
    return found
