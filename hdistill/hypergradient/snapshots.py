"""Exact reverse mode with s weights in memory: the optimal offline schedule of snapshots."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hdistill.devices import vary_like
from hdistill.hypergradient.backward import Pulled
from hdistill.problem import InnerRun
from hdistill.products import inner_pullback
from hdistill.tree import wide


class Schedule(NamedTuple):
    """The way in which the weights before each step are reached (Griewank and Walther 2000).

    The way back visits steps T-1, T-2, ..., 0. For the i-th of them the weights of snapshot
    `slot[i]`, those before step `begin[i]`, run forward to step T-1-i. On the way, in order, the
    weights before step `place[j]` become snapshot `into[j]`.

    Attributes:
      slot, begin: int32 [T].
      place, into: int32 [stores + 1]; the last entry is at no step.
    """

    slot: np.ndarray
    begin: np.ndarray
    place: np.ndarray
    into: np.ndarray

    @property
    def steps(self) -> int:
        """Forward steps, the first sweep and its last step included."""
        return int(np.sum(np.arange(len(self.slot))[::-1] - self.begin)) + 1


def schedule(steps: int, snapshots: int) -> Schedule:
    """The schedule with the fewest forward steps, r T - C(s + r, s + 1) + 1 of them.

    T is `steps`, s `snapshots`, those before step 0 among them, and r the least number with
    C(s + r, s) >= T. The 1 is the step to w_T, where the loss is.

    References:
      Griewank and Walther, "Algorithm 799: Revolve", ACM TOMS 2000.
    """
    slots, begins, stores = [], [], []
    open_segments = [(0, steps, 0, snapshots)]  # (first step, end, slot of its start, free slots)
    while open_segments:
        first, end, slot, free = open_segments.pop()
        begin, begin_slot = first, slot
        while end - first > 1 and free > 1:
            middle = first + _split(end - first, free)
            open_segments.append((first, middle, slot, free))
            first, slot, free = middle, slot + 1, free - 1
            stores.append((first, slot))
        slots += [begin_slot] + [slot] * (end - first - 1)
        begins += [begin] + [first] * (end - first - 1)
    place, into = zip(*stores, (-1, 0))
    return Schedule(*(np.array(x, np.int32) for x in (slots, begins, place, into)))


def _split(steps: int, free: int) -> int:
    """Counts the steps of the part that is gone back through last, of an optimal split."""
    repeats = 0
    while math.comb(free + repeats, free) < steps:
        repeats += 1
    # The other part keeps one snapshot less; both must do with as few repeats as their share.
    return min(
        math.comb(free + repeats - 1, free),
        steps - math.comb(free + repeats - 2, free - 1),
    )


def with_snapshots(snapshots: int):
    """A sweep for `reverse_mode` that keeps so many weights, and one copy more to write to."""

    def sweep(inner: InnerRun):
        problem, hparams, start, batch_at, steps, first = inner
        plan, spare = schedule(steps, snapshots), min(snapshots, steps)
        place, into = jnp.asarray(plan.place), jnp.asarray(plan.into)

        def forward(t, carry):
            """Step t; what need not be kept is written to the spare copy."""
            weights, kept, j = carry
            weights = inner.step(weights, first + t)
            due = place[j] == t + 1
            row = jnp.where(due, into[j], spare)
            kept = jax.tree.map(lambda k, x: k.at[row].set(x), kept, weights)
            return weights, kept, j + due.astype(jnp.int32)

        kept = jax.tree.map(lambda x: jnp.broadcast_to(x, (spare + 1, *jnp.shape(x))), start)
        weights, kept, j = jax.lax.fori_loop(0, steps - 1, forward, (start, kept, jnp.int32(0)))
        kept = jax.tree.map(lambda k, x: k.at[spare].set(x), kept, weights)  # the first way back's
        final = inner.step(weights, first + jnp.int32(steps - 1))

        def pull(alpha, total, carry, visit):
            def back(state, at):
                (t, slot, begin), (kept, j, alpha, total, carry) = at, state
                weights = jax.tree.map(lambda k: k[slot], kept)
                weights, kept, j = jax.lax.fori_loop(begin, t, forward, (weights, kept, j))
                batch = batch_at(first + t)
                alpha, direct = inner_pullback(problem, weights, hparams, batch, alpha)
                total, outputs = optax.tree.add(total, wide(direct)), None
                if visit:
                    carry, alpha, outputs = visit(carry, first + t, weights, batch, alpha, total)
                return (kept, j, alpha, total, carry), outputs

            numbers = np.arange(steps, dtype=np.int32)[::-1]
            slots = np.where(numbers == steps - 1, spare, plan.slot)
            begins = np.where(numbers == steps - 1, numbers, plan.begin)
            state = (kept, j, *vary_like((alpha, total, carry), (alpha, hparams)))
            order = tuple(jnp.asarray(x, jnp.int32) for x in (numbers, slots, begins))
            (*_, alpha, total, carry), outputs = jax.lax.scan(back, state, order)
            return Pulled(alpha, total, carry, jax.tree.map(lambda x: x[::-1], outputs))

        return final, pull

    return sweep
