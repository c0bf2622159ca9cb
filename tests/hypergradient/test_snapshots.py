"""Reverse mode with s snapshots: the fewest forward steps, the same bits, memory flat in T."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hdistill as hd
from hdistill.hypergradient.snapshots import schedule
from tests.problems import assert_close, grad_of_unroll, mlp, quadratic
from tests.test_memory import SIZE, offline


@functools.cache
def fewest(steps, snapshots):
    """Forward steps before the way back through `steps`, by trying every split."""
    if steps == 1:
        return 0
    if snapshots == 1:
        return steps * (steps - 1) // 2
    return min(m + fewest(steps - m, snapshots - 1) + fewest(m, snapshots) for m in range(1, steps))


@pytest.mark.parametrize("snapshots", [2, 3, 5, 10])
def test_the_schedule_has_the_fewest_forward_steps(snapshots):
    for steps in range(2, 40):
        assert schedule(steps, snapshots).steps == fewest(steps, snapshots) + 1
    repeats = next(r for r in range(99) if math.comb(snapshots + r, r) >= 1000)
    law = 1000 * repeats - math.comb(snapshots + repeats, snapshots + 1) + 1
    assert schedule(1000, snapshots).steps == law


@pytest.mark.parametrize("steps, snapshots", [(2, 2), (17, 2), (17, 3), (17, 16), (100, 7)])
def test_walking_the_schedule_by_hand_meets_every_step(steps, snapshots):
    """Weights are their step's number; at most s are kept, and each is what it is taken for."""
    plan, kept, j, walked = schedule(steps, snapshots), {0: 0}, 0, 0
    for i, t in enumerate(reversed(range(steps))):
        weights = kept[plan.slot[i]]
        assert weights == plan.begin[i]
        while weights < t:
            weights, walked = weights + 1, walked + 1
            if plan.place[j] == weights:
                kept[int(plan.into[j])], j = weights, j + 1
        assert len(kept) <= snapshots and weights == t
    assert walked + 1 == plan.steps


def _ends(info):
    return info.start, info.weights


@pytest.fixture(scope="module")
def case_and_answers():
    case = mlp("momentum", horizon=23)
    total, _ = jax.jit(lambda: grad_of_unroll(case))()
    return case, hd.offline.reverse_mode(*case, return_info=True), total


@pytest.mark.parametrize("snapshots", [2, 7, 40])
def test_it_is_reverse_mode_to_rounding(snapshots, case_and_answers):
    case, whole, total = case_and_answers
    few = hd.offline.reverse_mode(*case, return_info=True, snapshots=snapshots)
    steps = few[1].steps
    assert_close((few[0], *_ends(few[1])), (whole[0], *_ends(whole[1])), 1e-13)
    assert steps == schedule(23, min(snapshots, 23)).steps
    assert_close(few[0].total, total, 1e-10)


@pytest.mark.parametrize(
    "options", [{"every": 3}, {"window": 9}, {"every": 4, "window": 7}], ids=str
)
def test_with_every_loss_and_with_a_window(options):
    case = quadratic("adam", horizon=14)
    if "every" in options:
        case = case._replace(outer_batch=lambda t, b=case.outer_batch: b * (1 + t))
    whole = hd.offline.reverse_mode(*case, return_info=True, **options)
    few = hd.offline.reverse_mode(*case, return_info=True, snapshots=3, **options)
    assert_close((few[0], few[1].outer_loss), (whole[0], whole[1].outer_loss), 1e-14)


def test_memory_is_flat_in_the_horizon():
    def few(horizon):
        return offline(functools.partial(hd.offline.reverse_mode, snapshots=5), horizon)

    short, long = few(50), few(800)
    assert abs(long - short) < SIZE * 8 / 2  # half a copy of the parameters
    assert long < offline(functools.partial(hd.offline.reverse_mode, checkpoint=True), 800) / 3


def test_bad_snapshots_are_named():
    case = quadratic("sgd", horizon=4)
    for bad in (0, 1, -2, 2.5, True, "3"):
        with pytest.raises(ValueError, match=r"snapshots="):
            hd.offline.reverse_mode(*case, snapshots=bad)
    with pytest.raises(ValueError, match=r"snapshots=3: expected None beside checkpoint"):
        hd.offline.reverse_mode(*case, snapshots=3, checkpoint=True)


def test_a_wrong_schedule_is_seen(monkeypatch):
    case = mlp("momentum", horizon=9)
    right = schedule(9, 3)
    wrong = right._replace(slot=np.roll(right.slot, 1))
    monkeypatch.setattr("hdistill.hypergradient.snapshots.schedule", lambda *_: wrong)
    whole, few = (hd.offline.reverse_mode(*case, snapshots=s).total for s in (None, 3))
    assert not jnp.allclose(few["scale"], whole["scale"], rtol=1e-3)
