"""Place what happened to a model on a drawing over its partitions.

Places along the time line are in per cent of its width, heights are in pixels, so that text keeps
its size whatever the width of the page. Not here: what happened, and how it is drawn.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, isfinite, log10
from typing import Any

from retrain_assets.domain.drift.observations import ESTIMATED, PERFORMANCE

Values = Mapping[str, Any]
Drawn = dict[str, Any]
HEIGHT, BARS = 190, 52  # pixels: of performance, and of the volumes
MOST_LABELS, TICKS, MARGIN, FUTURE = 5, 5, 0.35, 12
GAP = 0.08  # of the width of a bar, at each side
EPSILON = 1e-9  # of a rounded division
MOST_STACKED, STACK, LEAST, FEW = 3, 11, 2, 12
DECISIONS = {
    "promote": "promoted",
    "approve": "approved",
    "adopt": "adopted",
    "stage": "waits for approval",
    "hold": "held",
    "reject": "rejected",
    "rollback": "rolled back",
    "adapt": "layer begins to serve",
    "withdraw": "layer ends to serve",
    "rename": "renamed",
    "retire": "retired",
}
REQUESTS = {
    "asked": "a cause asked for a candidate",
    "cause": "a cause fired, and nothing was asked for",
}
ROWS = {"accepted": "accepted rows", "quarantined": "refused rows or file"}
SPANS = {"pause": "paused", "excluded": "excluded", "corrected": "corrected after training"}


@dataclass(frozen=True)
class Axis:
    """The partitions along the time line.

    Args:
        keys: Partitions in order.
        future: A partition that is yet to come and stands at the end, if any.
        gap: How many places it takes up.
    """

    keys: Sequence[str]
    future: str | None = None
    gap: int = 0

    @property
    def step(self) -> float:
        """Return the width of a partition."""
        return 100 / max(1, len(self.keys) + self.gap)

    def at(self, key: str) -> float:
        """Return the middle of a partition, or of the place where it would stand."""
        if self.future and key > self.keys[-1]:
            return round(100 - self.step / 2, 3)
        place = min(bisect_left(self.keys, key), len(self.keys) - 1)
        return round(self.step * (place + 0.5), 3)

    def span(self, first: str, last: str) -> tuple[float, float]:
        """Return where the partitions of a range begin, and how much of the width they take."""
        start, end = bisect_left(self.keys, first), bisect_right(self.keys, last)
        if self.future and last > self.keys[-1]:
            end += self.gap
        return round(self.step * start, 3), round(self.step * max(end - start, 0), 3)

    def labels(self) -> list[tuple[float, str]]:
        """Return a few partitions at even distances, with their places."""
        step = -(-len(self.keys) // MOST_LABELS)
        return [(self.at(key), key) for key in self.keys[step // 2 :: step]]


@dataclass(frozen=True)
class Scale:
    """The heights of values between a lowest and a highest one."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return the height of a value, of one beyond the ends that of the end."""
        inside = min(max(value, self.low), self.high)
        return round(HEIGHT * (self.high - inside) / (self.high - self.low), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the heights of some round values, and these as text."""
        return [(self.at(value), f"{value:.6g}") for value in round_values(self.low, self.high)]


def round_values(low: float, high: float) -> list[float]:
    """Return some round values from a lower one through a higher one."""
    rough = (high - low) / TICKS
    unit = 10.0 ** floor(log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    first, last = ceil(low / step - EPSILON), floor(high / step + EPSILON)
    return [number * step for number in range(first, last + 1)]


def draw(report: Values) -> Drawn | None:
    """Return where everything of a report stands; None if there are no partitions yet.

    Args:
        report: As `steps.inspect.report` returns it.
    """
    keys, expected = report["partitions"], report["next"]
    if not keys:
        return None
    future = expected["as_of"] if (expected["as_of"] or "") > keys[-1] else None
    gap = min(expected["partitions"], max(1, len(keys) // FUTURE)) if future else 0
    axis, events = Axis(keys, future, max(gap, 1) if future else 0), report["events"]
    kinds = {event["kind"] for event in events}
    decisions, volumes = _place_marks(axis, events, DECISIONS), report["volumes"]
    bars = _place_volumes(axis, volumes)
    rows = {kind for bar in bars for kind, *_ in bar["parts"]}
    return {
        "labels": axis.labels(),
        "future": axis.at(future) if future else None,
        "versions": list(_place_versions(axis, events)),
        "performance": _place_performance(axis, report["course"]),
        "decisions": decisions,
        "lift": max((mark["lift"] for mark in decisions), default=0),
        "requests": _place_marks(axis, events, REQUESTS),
        "spans": [_place_span(axis, event) for event in events if event["kind"] in SPANS],
        "hits": list(_place_hits(axis, report)),
        "volumes": bars,
        "drift": [
            row | {"runs": [_place_span(axis, run) for run in row["runs"]]}
            for row in report["drift"]
        ],
        "glyphs": {kind: text for kind, text in (DECISIONS | REQUESTS).items() if kind in kinds},
        "colours": {k: text for k, text in (SPANS | ROWS).items() if k in kinds | rows},
        "height": HEIGHT,
        "bars": BARS,
    }


def _place_span(axis: Axis, event: Values) -> Drawn:
    x, width = axis.span(event["first"], event["last"])
    return {**event, "x": x, "width": width or axis.step}


def _place_versions(axis: Axis, events: Sequence[Values]) -> Iterator[Drawn]:
    """Yield for how long each version served."""
    changes = [event for event in events if event.get("serves") is not None]
    starts = [axis.step * bisect_right(axis.keys, event["serves"]) for event in changes]
    for event, start, end in zip(changes, starts, [*starts[1:], 100.0], strict=False):
        if start < end:  # the last one serves on
            place = {"x": round(start, 3), "width": round(end - start, 3)}
            yield {"version": event["version"], **place}


def _place_marks(axis: Axis, events: Sequence[Values], kinds: Collection[str]) -> list[Drawn]:
    """Return marks of single partitions; several of one partition stand above each other."""
    count: Counter[str] = Counter()
    marks = []
    for event in events:
        if event["kind"] in kinds and event["first"] >= axis.keys[0]:
            lift = STACK * min(count[event["first"]], MOST_STACKED - 1)
            marks.append({**event, "x": axis.at(event["first"]), "lift": lift})
            count[event["first"]] += 1
    return marks


def _place_performance(axis: Axis, course: Sequence[Values]) -> Drawn | None:
    """Return lines of realised and estimated performance, their intervals and bounds."""
    rows = [row for row in course if row["window_to"] >= axis.keys[0]]
    if not rows:
        return None
    scale = _choose_scale(rows)
    lines, bands, bounds = [], [], []
    for role in (ESTIMATED, PERFORMANCE):
        same = [row for row in rows if row["role"] == role]
        for _, group in groupby(same, key=lambda row: row["model_version"]):
            part = list(group)
            places = [10 * axis.at(row["window_to"]) for row in part]
            lines.append((role, _join(places, [scale.at(row["statistic"]) for row in part])))
            if role == PERFORMANCE:
                bands.append(_draw_band(scale, places, part))
            if isfinite(part[0]["threshold"] or float("nan")):
                bounds.append(_join(places, [scale.at(row["threshold"]) for row in part]))
    dots = [
        {"x": axis.at(row["window_to"]), "y": scale.at(row["statistic"]), **row}
        for row in rows
        if (row["alert"] and row["role"] == PERFORMANCE) or len(rows) <= FEW
    ]
    picture = {"lines": lines, "bands": bands, "bounds": bounds, "dots": dots}
    return picture | {"ticks": scale.ticks(), "alerts": any(dot["alert"] for dot in dots)}


def _choose_scale(rows: Sequence[Values]) -> Scale:
    """Return a scale on which statistics and bounds stand; wide intervals are cut off."""
    values = [row[name] for row in rows for name in ("statistic", "threshold", "baseline")]
    finite = [value for value in values if value is not None and isfinite(value)]
    low, high = min(finite), max(finite)
    margin = MARGIN * (high - low) or abs(high) / 10 or 1.0
    return Scale(low - margin, high + margin)


def _draw_band(scale: Scale, places: Sequence[float], rows: Sequence[Values]) -> str:
    ends = [
        [scale.at(row["statistic"] if row[end] is None else row[end]) for row in rows]
        for end in ("low", "high")
    ]
    return _join([*places, *places[::-1]], [*ends[0], *ends[1][::-1]])


def _join(places: Sequence[float], heights: Sequence[float]) -> str:
    """Return points of an SVG line in a drawing that is 1000 wide."""
    return " ".join(f"{x:.1f},{y:g}" for x, y in zip(places, heights, strict=True))


def _place_hits(axis: Axis, report: Values) -> Iterator[Drawn]:
    """Yield a column for each partition, with all that is known of it."""
    texts: dict[str, list[str]] = defaultdict(list)
    for row in report["course"]:
        texts[row["window_to"]].append(row["text"])
    for event in report["events"]:
        texts[event["first"]].append(event["text"])
    for row in report["volumes"]:
        texts[row["partition"]].append(_describe_volume(row))
    for key in axis.keys:
        x, width = axis.span(key, key)
        yield {"x": x, "width": width, "text": "\n".join([key, *texts[key]])}


def _describe_volume(row: Values) -> str:
    text = f"{row['accepted']:,} rows accepted, {row['quarantined']:,} refused"
    return f"{text}; a file is refused: {row['refusal']}" if row["refusal"] else text


def _place_volumes(axis: Axis, volumes: Sequence[Values]) -> list[Drawn]:
    """Return a bar for each partition: accepted rows, and refused rows on top of them."""
    largest = max((row["accepted"] + row["quarantined"] for row in volumes), default=0) or 1
    bars = []
    for row in volumes:
        x, width = axis.span(row["partition"], row["partition"])
        bar = {"x": round(x + GAP * width, 3), "width": round((1 - 2 * GAP) * width, 3)}
        accepted = round(BARS * row["accepted"] / largest, 1)
        refused = round(max(BARS * row["quarantined"] / largest, LEAST), 1)
        parts = [("accepted", BARS - accepted, accepted)]
        if row["quarantined"] or row["refusal"]:
            parts.append(("quarantined", BARS - accepted - refused, refused))
        text = f"{row['partition']}: {_describe_volume(row)}"
        bars.append({**bar, "parts": parts, "text": text})
    return bars
