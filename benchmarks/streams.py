"""What the adaptive layer is worth on streams that are made here, and what bad days do to it.

    python benchmarks/streams.py [--seeds 10]

A stream has 400 days of 300 rows with six numbers, a label that depends on them by a law which
moves, and days with luck of their own. Models are logistic regressions on 60 days with squares and
products. The layer is moved and tested by the functions that make it live. Differences are paired
by day; intervals are percentiles of a bootstrap of weeks. Not here: the flights (`adaptation.py`).
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from retrain_assets.domain.adaptation.layer import (
    fill_roles,
    predict_layer,
    start_layer,
    update_layer,
)
from retrain_assets.domain.adaptation.service import assess

DAYS, ROWS, TRAIN, WEEK, DRAWS = 400, 300, 60, 7, 2000
BREAK, LATER = 200, 60
Array = np.ndarray
Day = tuple[Array, Array]
Law = Callable[[int, np.random.Generator], Array]


def drifting(day: int, rng: np.random.Generator) -> Array:
    """Return coefficients that turn through the year, with luck of the day."""
    angle = 2 * np.pi * day / 250
    slow = np.array([np.cos(angle), np.sin(angle), 0.5, -0.5, 0.3, 0.0])
    return np.append(1.2 * slow, 0.6 * np.sin(angle / 2) + 0.25 * rng.normal())


def jumping(day: int, rng: np.random.Generator) -> Array:
    """Return coefficients that jump every 90 days, with luck of the day."""
    law = np.random.default_rng(day // 90).normal(size=6)
    return np.append(law, 0.5 * np.random.default_rng(99 + day // 90).normal() + 0.2 * rng.normal())


def broken(day: int, rng: np.random.Generator) -> Array:
    """Return coefficients that change once."""
    law = np.array([1.0, -1.0, 0.5, 0.5, 0.0, 0.3]) * (1 if day < BREAK else -1)
    return np.append(law, (0.0 if day < BREAK else 0.8) + 0.2 * rng.normal())


STREAMS: dict[str, Law] = {"drifting": drifting, "jumping": jumping}


def draw(law: Law, seed: int) -> list[Day]:
    """Return features and labels of each day."""
    rng, days = np.random.default_rng(seed), []
    for day in range(DAYS):
        *weights, bias = law(day, rng)
        features = rng.normal(size=(ROWS, 6)) + 0.3 * rng.normal(size=6)
        chance = 1 / (1 + np.exp(-(features @ weights + bias)))
        days.append((features, (rng.random(ROWS) < chance) * 1.0))
    return days


@dataclass(frozen=True)
class Play:
    """One stream, whose fits all policies share.

    Args:
        days: Its days.
        delay: How many days later labels are final.
    """

    days: Sequence[Day]
    delay: int = field(default=0, compare=False)  # plays of all delays share their fits

    def __hash__(self) -> int:
        return id(self.days)

    @cache  # noqa: B019 the few streams live as long as the process
    def fit(self, through: int) -> Callable[[Array], Array]:
        """Return the model that is fitted on the days before one."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import PolynomialFeatures

        parts = self.days[through - TRAIN : through]
        features, labels = (np.concatenate(side) for side in zip(*parts, strict=True))
        model = make_pipeline(PolynomialFeatures(2), LogisticRegression(C=1.0, max_iter=200))
        model.fit(features, labels)
        return lambda rows: np.asarray(model.predict_proba(rows)[:, 1])

    def list_members(self, period: int) -> list[list[int]]:
        """Return, of each day, through which days its members were fitted, the newest first."""
        first, members, fits = TRAIN + self.delay, [], list[int]()
        for day in range(DAYS):
            if day >= first and (not fits or day - self.delay - fits[0] >= period):
                fits.insert(0, day - self.delay)
            members.append([*fits])
        return members

    def measure(
        self, period: int, abuse: dict[int, Callable[[Day], Day]] | None = None
    ) -> tuple[Array, Array, int]:
        """Return the loss of the newest version and of the layer on each day, and the fits.

        Args:
            period: How many days lie between two fits.
            abuse: What reaches the layer of some days instead.
        """
        members, states = self.list_members(period), [start_layer("binary")]
        losses, adapted = [], []
        for day in range(TRAIN + self.delay, DAYS):
            outputs = self._predict(members[day], self.days[day][0])
            served = states[max(0, len(states) - 1 - self.delay)]
            labels = self.days[day][1]
            losses.append(_loss(labels, outputs[:, 0]))
            adapted.append(_loss(labels, predict_layer(served, outputs)))
            features, labels = (abuse or {}).get(day, lambda part: part)(self.days[day])
            outputs = self._predict(members[day], features)
            states.append(update_layer(states[-1], outputs, labels, served=served).state)
        return np.array(losses), np.array(adapted), len(members[-1])

    def _predict(self, members: Sequence[int], features: Array) -> Array:
        roles = fill_roles(members)
        outputs = {through: self.fit(through)(features) for through in set(roles)}
        return np.stack([outputs[through] for through in roles], axis=1)


def _loss(labels: Array, chance: Array) -> float:
    return float(-np.log(np.clip(np.where(labels > 0, chance, 1 - chance), 1e-12, 1)).mean())


def serve_by_test(alone: Array, adapted: Array, delay: int) -> tuple[Array, int]:
    """Return what is served where the test lets the layer in and out, and how often it changes."""
    served, serves, since, changes = alone.copy(), False, 0, 0
    for place in range(len(alone)):
        known = slice(since, max(since, place - delay))
        inputs = alone[known].tolist(), adapted[known].tolist()
        if inputs[0] and assess(*inputs, serves=serves).changes:
            serves, since, changes = not serves, place, changes + 1
        served[place] = adapted[place] if serves else alone[place]
    return served, changes


def describe(gains: Array) -> str:
    """Return a mean difference with its interval of 90 %."""
    weeks = np.array([part.mean() for part in np.array_split(gains, len(gains) // WEEK)])
    drawn = np.random.default_rng(0).integers(0, len(weeks), (DRAWS, len(weeks)))
    low, high = np.quantile(weeks[drawn].mean(axis=1), [0.05, 0.95])
    return f"{gains.mean():+.4f} ({low:+.4f} to {high:+.4f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="Of streams whose days are shuffled.")
    seeds = parser.parse_args().seeds
    print("| stream | delay | policy | fits | log loss | lower than every 1 by |")
    print("|---|---|---|---|---|---|")
    for name, law in STREAMS.items():
        days = draw(law, 0)
        for delay in (0, 1, 3, 7):
            report_calendars(name, Play(days, delay))
    report_recovery()
    report_abuse()
    report_shuffled(seeds)


def report_calendars(name: str, play: Play) -> None:
    """Print the loss of calendars with and without the layer."""
    daily, _, count = play.measure(1)
    print(f"| {name} | {play.delay} | every 1 | {count} | {daily.mean():.4f} | |", flush=True)
    for period in (7, 14, 28, DAYS):
        alone, adapted, fits = play.measure(period)
        served, _ = serve_by_test(alone, adapted, play.delay)
        rows = {"": alone, " + layer": adapted, " + layer by the test": served}
        for what, losses in rows.items():
            policy = f"{'never' if period == DAYS else f'every {period}'}{what}"
            gain = describe(daily - losses)
            text = f"| {policy} | {fits} | {losses.mean():.4f} | {gain} |"
            print(f"| {name} | {play.delay} {text}", flush=True)


def report_recovery() -> None:
    """Print after how many days half of the loss that a sudden change brings is recovered."""
    play = Play(draw(broken, 0))
    print("| after a sudden change | days until half of the loss is recovered |\n|---|---|")
    alone, adapted, _ = play.measure(28)
    never = play.measure(DAYS)[0]
    rows = {"never retrained": never, "every 28": alone, "every 28 + layer": adapted}
    place = BREAK - TRAIN
    for name, losses in rows.items():
        before = losses[place - 28 : place].mean()
        half = before + (never[place : place + 7].mean() - before) / 2
        means = np.convolve(losses[place:], np.ones(3) / 3, "valid")
        below = np.flatnonzero(means <= half)
        print(f"| {name} | {below[0] + 1 if len(below) else 'not in the stream'} |", flush=True)


ABUSES: dict[str, Callable[[Day], Day]] = {
    "flipped labels": lambda day: (day[0], 1 - day[1]),
    "labels all 1": lambda day: (day[0], 0 * day[1] + 1),
    "a burst of one row, 20 times the day": lambda day: (
        np.concatenate([day[0], np.repeat(day[0][:1], 20 * ROWS, axis=0)]),
        np.concatenate([day[1], np.repeat(day[1][:1], 20 * ROWS)]),
    ),
    "10 rows": lambda day: (day[0][:10], day[1][:10]),
}


def report_abuse() -> None:
    """Print by how much the layer is worse after a bad day than the newest version alone."""
    play, places = Play(draw(drifting, 0)), range(120, 380, 20)
    alone, sound, _ = play.measure(28)
    print("| a day with | next day, mean | next day, worst | 7 days, mean | days until as before |")
    print("|---|---|---|---|---|")
    for name, change in ABUSES.items():
        worse, week, back = [], [], []
        for day in places:
            bad = play.measure(28, {day: change})[1]
            after = slice(day - TRAIN + 1, day - TRAIN + 1 + LATER)
            excess, damage = (bad - alone)[after], (bad - sound)[after]
            worse.append(excess[0])
            week.append(excess[:7].mean())
            lasting = np.flatnonzero(damage > 0.005)
            back.append(lasting[-1] + 1 if len(lasting) else 0)
        figures = f"{np.mean(worse):+.4f} | {max(worse):+.4f} | {np.mean(week):+.4f}"
        print(f"| {name} | {figures} | {np.median(back):.0f} |", flush=True)
    constant = replace(play, days=[*play.days])
    fit = constant.fit
    object.__setattr__(
        constant,
        "fit",
        lambda through: (lambda rows: np.full(len(rows), 0.5)) if through == 200 else fit(through),
    )
    alone, adapted, _ = constant.measure(28)
    serving = slice(200 - TRAIN, 228 - TRAIN)
    for name, part in (("while it is the newest", serving), ("after it", slice(228 - TRAIN, None))):
        gain = (adapted - alone)[part].mean()
        print(f"| (a member that predicts 0.5, {name}) | {gain:+.4f} | | | |")


def report_shuffled(seeds: int) -> None:
    """Print what the layer gains where nothing drifts, and how often the test changes."""
    gains, served, changes = [], [], []
    for seed in range(seeds):
        days = draw(drifting, seed)
        order = np.random.default_rng(seed).permutation(len(days))
        alone, adapted, _ = Play([days[place] for place in order]).measure(28)
        by_test, count = serve_by_test(alone, adapted, 0)
        gains.append((alone - adapted).mean())
        served.append((alone - by_test).mean())
        changes.append(count)
    print(
        f"days shuffled, {seeds} seeds: the layer is lower than every 28 by {np.mean(gains):+.4f} "
        f"({min(gains):+.4f} to {max(gains):+.4f}), by the test {np.mean(served):+.4f} "
        f"({min(served):+.4f} to {max(served):+.4f}); changes of the test: {changes}"
    )


if __name__ == "__main__":
    main()
