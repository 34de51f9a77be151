"""The layer moves with each partition, repeats itself bit for bit, and falls back to the newest."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from retrain_assets.domain.adaptation.layer import (
    FAR,
    HEADS,
    LayerState,
    fill_roles,
    predict_layer,
    read_state,
    start_layer,
    update_layer,
)
from retrain_assets.domain.adaptation.linear import (
    CLIP,
    Rows,
    from_link,
    start_linear,
    update_linear,
)
from retrain_assets.domain.metrics.metrics import surprise
from retrain_assets.specs.features import Kind

KINDS: tuple[Kind, ...] = ("binary", "regression", "multiclass")
ROWS, CLASSES, MEMBERS = 120, 3, 3


def start(kind: Kind) -> LayerState:
    return start_layer(kind, members=MEMBERS, classes="abc", deviation=2.0)


def partition(kind: Kind, seed: int, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of members that see the law through noise, the newest clearest, and labels."""
    random = np.random.default_rng(seed)
    size = (rows, CLASSES) if kind == "multiclass" else (rows,)
    law = random.normal(size=size)
    noise = np.array([0.3, 0.6, 0.9]).reshape(-1, *[1] * (law.ndim - 1))
    seen = law[:, None] + noise * random.normal(size=(rows, MEMBERS, *size[1:]))
    if kind == "regression":
        return seen + 5, law + 5.5 + random.normal(size=rows)
    if kind == "binary":
        return 1 / (1 + np.exp(-seen)), (random.random(rows) < 1 / (1 + np.exp(-law - 0.5))) * 1.0
    raised = np.exp(seen)
    return raised / raised.sum(axis=2, keepdims=True), (law + random.gumbel(size=size)).argmax(1)


def states(kind: Kind, count: int, first: int = 0) -> Iterator[LayerState]:
    state = start(kind)
    for seed in range(first, first + count):
        state = update_layer(state, *partition(kind, seed)).state
        yield state


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_partitions_give_the_same_bits_from_any_stored_state_on(kind: Kind) -> None:
    once = [state.to_json() for state in states(kind, 6)]
    for place in range(5):
        again = update_layer(read_state(once[place]), *partition(kind, place + 1)).state
        assert again.to_json() == once[place + 1]


@pytest.mark.parametrize("kind", KINDS)
def test_before_any_partition_members_that_agree_serve_what_they_say(kind: Kind) -> None:
    newest = partition(kind, 0)[0][:, :1]
    outputs = np.repeat(newest, MEMBERS, axis=1)
    assert predict_layer(start(kind), outputs) == pytest.approx(newest[:, 0], rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_members_that_agree_are_blended_as_one_is_recalibrated(kind: Kind) -> None:
    state = start(kind)
    for seed in range(5):
        outputs, labels = partition(kind, seed)
        state = update_layer(state, np.repeat(outputs[:, :1], MEMBERS, axis=1), labels).state
    *_, single, _, blend = state.heads
    biases = CLASSES if kind == "multiclass" else 1
    assert blend.coefficients[biases:].sum() == pytest.approx(single.coefficients[-1], abs=0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_counts_as_so_many_rows(kind: Kind) -> None:
    (state,) = states(kind, 1)
    outputs, labels = partition(kind, 1)
    weights = np.arange(ROWS) % 4
    weighed = update_layer(state, outputs, labels, weights.astype(float))
    repeated = update_layer(state, outputs.repeat(weights, axis=0), labels.repeat(weights))
    assert weighed.losses == pytest.approx(repeated.losses, rel=1e-12)
    for head, same in zip(weighed.state.heads, repeated.state.heads, strict=True):
        assert head.coefficients == pytest.approx(same.coefficients, rel=1e-9)
        assert head.information == pytest.approx(same.information, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_alone_and_among_others(kind: Kind) -> None:
    *_, state = states(kind, 3)
    outputs, _ = partition(kind, 9, rows=37)
    together = predict_layer(state, outputs)
    alone = [predict_layer(state, outputs[place : place + 1])[0] for place in range(37)]
    assert np.array_equal(together, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_what_all_members_miss(kind: Kind) -> None:
    *_, state = states(kind, 10)
    update = update_layer(state, *partition(kind, 99, rows=4000))
    assert update.losses is not None
    assert update.loss is not None
    assert update.loss < update.losses["newest"]
    assert state.weights.sum() == pytest.approx(1)
    assert list(update.losses) == list(HEADS)


def test_a_step_is_the_least_of_loss_and_prior() -> None:
    """Against a minimiser that knows nothing of Newton's steps."""
    outputs, labels = partition("binary", 0)
    rows = Rows(np.log(outputs / (1 - outputs)), labels, np.full(ROWS, 1 / ROWS))
    first, discount = start_linear(MEMBERS, 1), 0.8
    moved = update_linear("binary", first, rows, discount)
    precision = np.diag(moved.diagonal)

    def cost(point: np.ndarray) -> float:
        link = point[0] + rows.inputs @ point[1:]
        away = point - first.coefficients
        return float((np.logaddexp(0, link) - labels * link).mean() + away @ precision @ away / 2)

    best = minimize(cost, first.coefficients, tol=1e-12)
    assert cost(moved.coefficients) <= best.fun + 1e-10
    assert moved.coefficients == pytest.approx(best.x, abs=1e-4)


def test_an_old_partition_is_forgotten() -> None:
    """So a corrected partition changes later states by less and less."""
    *_, other = states("binary", 1, first=50)
    (state,) = states("binary", 1)
    distances = []
    for seed in range(100, 160):
        state, other = (
            update_layer(item, *partition("binary", seed)).state for item in (state, other)
        )
        pairs = zip(state.heads, other.heads, strict=True)
        distances.append(max(np.abs(a.coefficients - b.coefficients).max() for a, b in pairs))
    assert distances[-1] < distances[0] / 20


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_that_is_not_finite_serves_the_newest_and_moves_nothing(kind: Kind) -> None:
    *_, state = states(kind, 3)
    outputs, labels = partition(kind, 7)
    outputs[:, 2] = np.nan
    assert np.array_equal(predict_layer(state, outputs), outputs[:, 0])
    update = update_layer(state, outputs, labels)
    assert (update.losses, update.loss, update.state) == (None, None, state)
    outputs[:, 2], outputs[5, 0] = outputs[:, 1], np.inf
    assert np.isinf(predict_layer(state, outputs)[5]).any()


@pytest.mark.parametrize("value", [1e308, -1e160, 1e100])
@pytest.mark.parametrize("member", [0, 2, None])
def test_an_extreme_output_or_label_moves_nothing_and_the_layer_goes_on(
    member: int | None, value: float
) -> None:
    *_, state = states("regression", 3)
    outputs, labels = partition("regression", 7)
    weights = np.append(0.0, np.ones(ROWS - 1))
    without = update_layer(state, outputs, labels, weights)
    if member is None:
        labels[0] = value
    else:
        outputs[0, member] = value
    update = update_layer(state, outputs, labels)
    assert update.losses == without.losses
    assert update.state.to_json() == without.state.to_json()
    after = update_layer(update.state, *partition("regression", 99, rows=4000))
    assert after.losses is not None
    assert after.loss is not None
    assert after.loss < after.losses["newest"]


def test_a_value_far_from_the_newest_is_not_served() -> None:
    state = start_layer("regression", members=2, deviation=1.0)
    newest = np.array([1.0, 2.0, 3.0])
    apart = 10 * FAR * np.array([1.0, 0.1, -1.0])
    served = predict_layer(state, np.column_stack([newest, newest + apart]))
    assert (served == newest).tolist() == [True, False, True]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_no_state_costs_a_row_more_than_the_stated_bound(kind: Kind, seed: int) -> None:
    """Neither coefficients that no data would give, nor probabilities at their ends."""
    random, state = np.random.default_rng(seed), start(kind)
    heads = tuple(
        replace(head, coefficients=random.normal(scale=4, size=len(head.coefficients)))
        for head in state.heads
    )
    state = replace(state, heads=heads, losses=random.exponential(size=5))
    shape = (500, MEMBERS, CLASSES) if kind == "multiclass" else (500, MEMBERS)
    link = random.normal(scale=random.choice([1, 6, 20]), size=shape)
    outputs = link if kind == "regression" else from_link("binary", link, 1.0)
    if kind == "multiclass":
        outputs = np.stack([from_link(kind, rows, 1.0) for rows in link.swapaxes(0, 1)], axis=1)
    newest, served = outputs[:, 0], predict_layer(state, outputs)
    assert np.any(served != newest)
    if kind == "regression":
        assert np.abs(served - newest).max() <= FAR * state.deviation * (1 + 1e-12)
    for label in range(0 if kind == "regression" else newest.ndim + 1):
        labels = np.full(len(newest), label)
        excess = surprise(labels, served) - surprise(labels, newest)
        assert excess.max() <= FAR - np.log(1 - CLIP) + 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_bad_days_leave_a_layer_that_recovers(kind: Kind) -> None:
    """A day with 10 rows, days of one class and a constant member cost little, and pass."""
    *_, state = states(kind, 10)
    few = partition(kind, 20, rows=10)
    outputs, labels = partition(kind, 21)
    constant = outputs.copy()
    constant[:, 1] = constant[0, 1]
    same = np.full_like(labels, labels.mean() if kind == "regression" else 0)
    for bad in (few, (outputs, same), (outputs, same), (constant, labels)):
        state = update_layer(state, *bad).state
    after = update_layer(state, *partition(kind, 30, rows=4000))
    for seed in range(40, 47):
        state = update_layer(state, *partition(kind, seed)).state
    recovered = update_layer(state, *partition(kind, 30, rows=4000))
    assert after.losses is not None
    assert after.loss is not None
    assert recovered.loss is not None
    assert np.isfinite([after.loss, *state.losses]).all()
    assert after.loss <= 1.25 * after.losses["newest"]
    assert recovered.loss < after.losses["newest"]


def test_heads_are_weighed_by_all_their_losses_the_older_the_less() -> None:
    state, sums = start("binary"), np.zeros(len(HEADS))
    for seed in range(6):
        update = update_layer(state, *partition("binary", seed))
        assert update.losses is not None
        state, sums = update.state, 0.97 * sums + np.array([*update.losses.values()])
    weights = np.exp(-5 * sums)
    assert state.weights == pytest.approx(weights / weights.sum(), rel=1e-9)


def test_information_is_discounted_by_each_partition() -> None:
    outputs, labels = partition("regression", 0)
    state = start("regression")
    for _ in range(200):
        state = update_layer(state, outputs, labels).state
    for head, discount in zip(state.heads, (0.8, 0.95, 0.8, 0.95), strict=True):
        assert np.diag(head.information) * (1 - discount) == pytest.approx(head.diagonal, rel=1e-3)


def test_heads_are_weighed_by_what_they_served() -> None:
    (older,) = states("binary", 1)
    *_, state = states("binary", 5)
    outputs, labels = partition("binary", 9)
    update = update_layer(state, outputs, labels, served=older)
    assert update.losses == update_layer(older, outputs, labels).losses
    assert update.state.heads[0].coefficients.tolist() == (
        update_layer(state, outputs, labels).state.heads[0].coefficients.tolist()
    )


def test_the_oldest_version_stands_for_those_that_are_missing() -> None:
    assert fill_roles([7, 4], 5) == (7, 4, 4, 4, 4)
    assert fill_roles([9, 7, 4], 2) == (9, 7)


def test_a_constant_target_cannot_be_scaled() -> None:
    with pytest.raises(ValueError, match="cannot be scaled"):
        start_layer("regression", deviation=0.0)
