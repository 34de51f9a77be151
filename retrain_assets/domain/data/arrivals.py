"""Which partitions of a delivery wait, and which have an unusual number of rows.

A mistaken date must not become the newest partition, so a partition that nothing confirms waits in
quarantine. Not here: what is wrong with a single row, and reading a waiting file again.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import compress, pairwise
from operator import not_
from statistics import median

from retrain_assets.domain.data import values
from retrain_assets.specs.base import duration
from retrain_assets.specs.dataset import DatasetSpec

_HISTORY, _ENOUGH = 28, 5  # most and fewest earlier partitions that a volume is compared with
_LONELY = 4  # times as far as what is near: so far may a partition with usual rows be from others
_FUTURE = "its partition begins in the future and waits"
_FEW = "its partition is far from all others, has few rows and waits for its neighbours"
LONELY = (
    "its partition is far from all others, and waits for a second file near it; if its date is "
    "right, set rows.stray to 0 until it is stored"
)
SHORT = "its partition, the last lines of the file, is less than half full and waits for more"
WAITING = _FUTURE, _FEW, LONELY, SHORT  # one stands in quarantine behind the value


def name_waiting(reasons: Mapping[str, str]) -> tuple[str, ...]:
    """Return partitions that wait, those with the usual number of rows marked by a `+`."""
    return tuple(f"{key}+" if why == LONELY else key for key, why in sorted(reasons.items()))


def find_future(
    keys: Collection[str], stored: Collection[str], spec: DatasetSpec, now: datetime | None
) -> dict[str, str]:
    """Return the partitions of a delivery that begin in the future, and so wait, with the reason.

    Args:
        keys: The partitions.
        stored: Those that are stored, none of which waits.
        spec: The dataset.
        now: The time in the time zone of the partitions, without offset; None if nobody knows.
    """
    period = spec.partition.period
    if period is None or now is None:
        return {}
    latest = now + duration(spec.rows.ahead)
    begins = ((key, period.begins(key)) for key in keys if key not in stored)
    future = [key for key, begin in begins if begin is not None and begin > latest]
    return dict.fromkeys(future, _FUTURE)


def find_strays(
    rows: Mapping[str, int],
    stored: Mapping[str, int],
    spec: DatasetSpec,
    waiting: Collection[str] = (),
    earlier: Collection[str] = (),
) -> dict[str, str]:
    """Return the partitions of a delivery that wait because nothing confirms their time, and why.

    Partitions near each other are a group. One that is stored confirms its group, and so do two
    deliveries, the newer one with the usual number of rows. Other groups are sound if there is a
    gap as wide between others. Nothing waits while few partitions are known.

    Args:
        rows: Rows of each partition in the delivery, none of which begins in the future.
        stored: Accepted rows of each stored partition.
        spec: The dataset.
        waiting: Partitions of other deliveries that wait.
        earlier: Partitions of an earlier state of this delivery that wait.
    """
    period, counts = spec.partition.period, {**stored, **rows}
    if period is None:
        return _find_short(rows, counts) if values.counts_lines(spec) and spec.rows.stray else {}
    usual_rows = median(counts.values()) if len(counts) > _ENOUGH else 0
    enough = max(1, spec.rows.stray * usual_rows)
    usual = {key for key, count in counts.items() if count >= enough}
    begins = {key: period.begins(key) or datetime.max for key in {*counts, *waiting, *earlier}}  # noqa: DTZ901
    near = period.near * period.longest
    groups = _group_near(begins, near)
    fewest: float = 2  # each is a file of its own, so two are two deliveries
    if spec.is_split:  # a first file has no others to be confirmed by
        fewest = math.inf if stored else _ENOUGH + 1

    def is_confirmed(group: Sequence[str]) -> bool:
        new = [key for key in group if key in rows and key in usual]
        before = [key for key in group if key in earlier]
        is_later = bool(before) and any(not before[0] <= key <= before[-1] for key in new)
        is_second = is_later or (bool(new) and not set(waiting).isdisjoint(group))
        return is_second or len(new) >= fewest or any(key in stored for key in group)

    confirmed = [*map(is_confirmed, groups)]
    sound = [key for group in compress(groups, confirmed) for key in group]
    gaps = [begins[after] - begins[before] for before, after in pairwise(sound)]
    widest = max([*gaps, near * _LONELY])
    strays: dict[str, str] = {}
    for group in compress(groups, map(not_, confirmed)):
        distances = [abs(begins[key] - begins[anchor]) for key in group for anchor in sound]
        is_far = len(sound) > _ENOUGH and min(distances) > widest and spec.rows.stray > 0
        if usual.isdisjoint(group) or is_far:
            strays |= {key: LONELY if key in usual else _FEW for key in group if key in rows}
    return strays


def _find_short(rows: Mapping[str, int], counts: Mapping[str, int]) -> dict[str, str]:
    """Return the last partition of lines, if it is less than half full."""
    *full, last = sorted(counts)
    is_short = bool(full) and counts[last] < median(counts[key] for key in full) / 2
    return {last: SHORT} if is_short and last in rows else {}


def _group_near(begins: Mapping[str, datetime], near: timedelta) -> list[list[str]]:
    """Return partitions in order, in groups of those that are near each other."""
    groups: list[list[str]] = []
    for key in sorted(begins):
        is_near = groups and begins[key] - begins[groups[-1][-1]] <= near
        groups = groups if is_near else [*groups, []]
        groups[-1].append(key)
    return groups


def find_atypical(
    rows: Mapping[str, int], published: Collection[str], tolerance: float
) -> list[dict[str, object]]:
    """Return partitions whose number of rows is far from the median of the 28 before them.

    Args:
        rows: Accepted rows of each partition, including the published ones.
        published: Partitions to judge; one with fewer than five earlier partitions passes.
        tolerance: Largest difference, as a share of the median.

    Returns:
        Partition, rows and median of each partition that is too far off, in order.
    """
    keys = sorted(rows)
    unusual: list[dict[str, object]] = []
    for place, key in enumerate(keys):
        before = [rows[earlier] for earlier in keys[max(0, place - _HISTORY) : place]]
        if key not in published or len(before) < _ENOUGH:
            continue
        typical = median(before)
        if abs(rows[key] - typical) > tolerance * typical:
            unusual.append({"partition": key, "rows": rows[key], "median_before": typical})
    return unusual
