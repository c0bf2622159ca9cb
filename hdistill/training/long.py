"""Exact reverse mode through any number of steps: a host loop over compiled segments."""

import pathlib
import re
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hdistill.cache import is_tracing
from hdistill.checks.batches import check_every, separate
from hdistill.checks.problem import check_problem, warn_if_zero
from hdistill.checks.values import (
    check_arrays,
    check_calls,
    check_choice,
    check_count,
    check_flag,
    leading_axis,
)
from hdistill.hypergradient.estimator import Hypergradient, no_products, spend
from hdistill.hypergradient.moving import moving_leaves
from hdistill.hypergradient.offline_method import OfflineInfo, start_of
from hdistill.hypergradient.snapshots import schedule
from hdistill.progress import Progress
from hdistill.training.folder import METRICS, RunFolder, read_lines
from hdistill.training.host_batches import HostBatches, checksum_of
from hdistill.training.run import NonFiniteLoss, Stopped, StopRequest
from hdistill.training.segments import (
    Carry,
    Segment,
    Way,
    default_length,
    finite_steps,
    first_carry,
    forward,
    pull_back,
    segments,
)
from hdistill.training.states import read_tree, write_tree
from hdistill.tree import is_finite, like, nbytes, part

BACK, STATES = "back", "states"


def reverse_mode(
    problem,
    hparams,
    weights,
    batch_at: Callable[[int], Any],
    outer_batch,
    *,
    horizon: int,
    folder: pathlib.Path | str,
    segment: int | None = None,
    store: str = "disk",
    snapshots: int | None = None,
    every: int | None = None,
    queries: bool = False,
    return_info: bool = False,
    label: str = "",
) -> Hypergradient | tuple[Hypergradient, OfflineInfo]:
    """Computes `hd.offline.reverse_mode`'s hypergradient through any number of steps.

    A loop in Python over compiled segments of the inner optimisation: forward, with the weights
    before each segment kept on disk (or in the host's memory), then back, where each segment runs
    forward once more. About two forward passes and 2T - 1 products, √T weights in a program with
    the default segment, whatever T is. Batches come from an ordinary Python function, loaded ahead
    in a thread.

    Killed at any moment, in either direction, the same call goes on to the same bits: what it has
    is in `folder`, with checksums; a damaged state is computed again from the one before it. On
    Ctrl-C or SIGTERM the segment at hand ends, and `Stopped` is raised. A call that has ended
    returns what it found.

    Examples:
      >>> from hdistill import training
      >>> g = training.reverse_mode(
      ...     problem, hparams, weights, batches, outer_batch, horizon=20, folder="runs/long"
      ... )
      >>> print(g.total)
      [-0.21  0.08  0.66]

    Args:
      problem: Φ and L_val.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree, on any devices: what is loaded goes to where its leaves are.
      batch_at: t -> D_{t+1}, a pytree of arrays, t = 0..T-1, a Python int. Asked twice for each t,
        in any order; it must give the same batch again, which is checked.
      outer_batch: the batch of L_val; with `every`, stacked [m, ...], or a function of the inner
        step, asked at t = n-1, 2n-1, ...
      horizon: T.
      folder: made if it is not there; of this call only.
      segment: inner steps of a compiled program, at most; None for ⌈√T⌉.
      store: where the weights before the segments are: "disk", or "host" for the host's memory, in
        which a kill loses the forward pass (not the way back).
      snapshots: s >= 2, weights kept within a segment (as in `hd.offline.reverse_mode`); None for
        all of a segment's.
      every: n, inner steps between two outer losses; None for L_val at w_T only.
      queries: whether the outer batches have a further leading axis [Q, ...] (after m, with
        `every`): the hypergradient of each, over the one trajectory; g has it too.
      return_info: also return an `OfflineInfo`.
      label: for the progress bar.

    Returns:
      A `Hypergradient`; with `return_info`, a pair with the info.

    Raises:
      ValueError: a batch that raises, has another shape or is another one the second time; a
        folder of another call (other λ, w_0, Φ, first batch, horizon, ...); arguments that do not
        fit together.
      NonFiniteLoss: a ValueError: weights, a loss or a cotangent that is not finite, with its step.
      Stopped: a KeyboardInterrupt, on Ctrl-C or SIGTERM.
      OSError: a state could not be written, as on a full disk; what is there stands.
    """
    if is_tracing():
        raise ValueError("training.reverse_mode: expected a call outside jax.jit and jax.vmap")
    horizon = check_count("horizon", horizon)
    length = default_length(horizon) if segment is None else check_count("segment", segment)
    check_choice("store", store, ("disk", "host"))
    if snapshots is not None:
        snapshots = check_count("snapshots", snapshots, least=2)
    if not callable(batch_at):
        raise ValueError(
            f"batch_at is a {type(batch_at).__name__}: expected a function (t) -> batch; stacked "
            "batches are hd.offline.reverse_mode's"
        )
    check_calls("batch_at", batch_at, "(t)")
    check_flag("queries", queries), check_flag("return_info", return_info)
    every = check_every(every, horizon, outer_batch)
    with HostBatches("batch_at", batch_at) as batches:
        run = _LongRun(
            problem, hparams, weights, batches, outer_batch, horizon, length, every, queries
        )
        config = run.config | {"segment": length, "store": store, "snapshots": snapshots}
        with RunFolder(folder, config, resume=True) as opened:
            run.open(opened, store, snapshots)
            result, info = run.finished() or run.go(label)
    return (result, info) if return_info else result


class _LongRun:
    """One call: its arguments, checked, and what it has so far."""

    def __init__(
        self, problem, hparams, weights, batches, outer_batch, horizon, length, every, queries
    ):
        check_arrays("outer_batch", () if callable(outer_batch) else outer_batch)
        self.problem, self.hparams, self.horizon = problem, hparams, horizon
        self.weights = jax.tree.map(_array, weights)
        self.batches, self.every = batches, every
        self._outer, self._single = outer_batch, every is None
        self.n = every or horizon
        self.end = horizon // self.n * self.n
        one, self.count = self.outer_batch(self.n), None
        if queries:
            self.count = leading_axis(one, "outer_batch, with queries=True,")
            one = jax.tree.map(lambda x: x[0], one)
        self._one_outer = one
        check_problem(problem, hparams, self.weights, batches.example, one)
        warn_if_zero(problem, hparams, self.weights, batches.example, one, horizon, "reverse_mode")
        self.segments = segments(horizon, self.n, length)
        self.moved = moving_leaves(problem, hparams, self.weights, batches.example)
        self.start, self._merge = part(self.weights, self.moved)
        self._finite = bool(is_finite(self.start))
        self.back = sum(segment.first < self.end for segment in self.segments)  # to go back through

    @property
    def config(self) -> dict:
        """What decides the result."""
        return {
            "method": "reverse_mode",
            "horizon": self.horizon,
            "every": self.every,
            "queries": self.count,
            "hparams": checksum_of(self.hparams),
            "weights": checksum_of(self.weights),
            "outer_batch": checksum_of(self.outer_batch(self.end)),
            "first_batch": checksum_of(self.batches.example),
            "problem": self._program(),
        }

    def _program(self) -> int:
        """A checksum of Φ, its surrogate and L_val as JAX traces them, and of their constants."""
        given, total = (self.weights, self.hparams), 0
        functions = [(f, self.batches.example) for f in self.problem[::2] if f is not None]
        for function, batch in [*functions, (self.problem.outer_loss, self._one_outer)]:
            traced = jax.make_jaxpr(function)(*given, batch)
            text = re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr))  # addresses of this process
            total = zlib.crc32(text.encode(), total) ^ checksum_of(traced.consts)
        return total

    def outer_batch(self, t: int):
        """Of the loss at w_t."""
        if self._single:
            return self._outer
        function, stacked = separate(self._outer)
        if function is not None or callable(stacked):
            return (function or stacked)(t - 1)
        return jax.tree.map(lambda x: x[t // self.n - 1], stacked)

    def open(self, folder: RunFolder, store: str, snapshots: int | None) -> None:
        """Takes the folder, and says what the states will take."""
        self.folder, self.way = folder, Way(self.n, snapshots, self.count is not None)
        self.on_disk = store == "disk"
        self._states: dict[int, Any] = {}  # in the host's memory, the weights before a segment
        self._sums: dict[int, list[int]] = {}  # of a segment's batches, once seen
        folder.rows = read_lines(folder.path / METRICS)
        self.path = folder.claim(STATES)
        self.path.mkdir(exist_ok=True)
        size, count = nbytes(self.start), len(self.segments)
        if self.on_disk and not any(self.path.iterdir()):
            need, free = size * count, shutil.disk_usage(self.path).free
            if need + size > free:  # and the cotangents
                raise ValueError(
                    f"folder={folder.path}: the states would take {need / 1e9:.3g} GB, and the "
                    f"disk has {free / 1e9:.3g} GB free; expected a larger segment, or another disk"
                )
            text = f"{count} states of {size / 1e6:.3g} MB each, {need / 1e6:.3g} MB"
            print(f"{folder.path}: {text}", file=sys.stderr)

    def state(self, k: int):
        """The weights before segment k that Φ moves; computed again where they were lost."""
        known = k
        while (weights := self._kept(known)) is None:
            known -= 1
        for i in range(known, k):
            weights = self._advance(i, weights)
            self._keep(i + 1, weights)
        return weights

    def _kept(self, k: int):
        if k == 0:
            return self.start
        if k in self._states:
            return self._states[k]
        found = read_tree(self.path / f"{k:08}", self.start)
        if found is None:
            return None
        self._sums.setdefault(k - 1, found[1]["batches"])
        return found[0]

    def _batches(self, k: int, then: int):
        """Segment k's, while those of segment `then` are loaded; the same as the first time."""
        ahead = self.segments[then].numbers if 0 <= then < len(self.segments) else None
        numbers = self.segments[k].numbers
        batches, sums = self.batches.stacked(numbers, ahead)
        for t, now, known in zip(numbers, sums, self._sums.setdefault(k, sums)):
            if now != known:
                raise ValueError(
                    f"batch_at({t}) gave another batch than the first time: expected the same "
                    "whenever it is asked for (drawn by t, not by a generator's state)"
                )
        return batches

    def _advance(self, k: int, weights):
        """Segment k forward: the weights after it that Φ moves."""
        segment, batches = self.segments[k], self._batches(k, k + 1)
        given = self.hparams, self._merge(weights), batches, jnp.int32(segment.first)
        end, sound = forward(self.problem, segment)(*given)
        if self._finite and not sound:  # masks may begin infinite
            finite = np.asarray(finite_steps(self.problem, segment)(*given))
            step = segment.first + int(np.argmin(finite))
            raise NonFiniteLoss("the weights are not finite", "inner step", step + 1, None, 0)
        return end

    def go(self, label: str):
        """Forward and back, from where an earlier call was stopped."""
        carry, done, losses = self._resumed()
        forwards = self._known() if done is None else len(self.segments)
        steps = len(self.segments) + self.back
        so_far = forwards + (0 if done is None else self.back - done)
        with StopRequest() as stop, Progress(steps, so_far, label or "reverse mode") as bar:
            weights = self.state(forwards if done is None else done)  # and its batches' sums
            for k in range(forwards, len(self.segments) if done is None else 0):
                start = time.perf_counter()
                weights = self._advance(k, weights)
                self._keep(k + 1, weights)
                self._log("forward", k, start, {})
                bar.advance()
                self._stop(stop, f"segment {k + 1} of {len(self.segments)} forward")
            for k in reversed(range(self.back if done is None else done)):
                start = time.perf_counter()
                carry, values, norm = self._back(k, carry)
                losses = [*np.asarray(values, float).tolist(), *losses]
                self._save_back(k, carry, losses)
                figures = {"alpha_norm": norm, "hypergradient_norm": float(_norm(carry))}
                figures |= {"outer_loss": float(np.sum(values))} if len(values) else {}
                self._log("back", k, start, figures)
                bar.advance({name: f"{value:.3g}" for name, value in figures.items()})
                self._stop(stop, f"segment {k} of {self.back} back")
        result, info = self._result(carry, losses)
        self.folder.finish({"outer_loss": losses, "hypergradient_norm": float(_norm(carry))})
        return result, info

    def _known(self) -> int:
        """Segments that an earlier call has run forward."""
        if not self.on_disk:
            return 0
        names = [int(p.name) for p in self.path.iterdir() if p.name.isdigit()]
        return max([k for k in names if k <= len(self.segments)], default=0)

    def _keep(self, k: int, weights) -> None:
        if self.on_disk or k == len(self.segments):
            write_tree(self.path / f"{k:08}", weights, {"batches": self._sums[k - 1]})
        else:
            self._states[k] = jax.device_get(weights)

    # Back: after each segment the cotangents and the losses so far are in one file.

    def _resumed(self):
        """(carry, the last segment gone through or None, the losses) so far."""
        empty = first_carry(
            self.problem, self.hparams, self.weights, self.batches.example, self.count
        )
        names = sorted(p.name for p in self.path.glob(f"{BACK}-*"))
        for name in names:  # the last segment gone through is the first in number
            found = read_tree(self.path / name, empty)
            if found is not None:
                return found[0], int(name.removeprefix(f"{BACK}-")), found[1]["losses"]
        return empty, None, []

    def _back(self, k: int, carry: Carry):
        segment, t = self.segments[k], self.segments[k].first
        weights, batches = self.state(k), self._batches(k, k - 1)
        ends = (t + segment.steps) % self.n == 0
        first = t // self.n + 1
        numbers = (
            range(first, (t + segment.steps) // self.n + 1) if ends else range(first, first + 1)
        )
        each = [self.outer_batch(j * self.n) for j in numbers]
        outer = jax.tree.map(lambda *x: jnp.stack(x), *each)
        program = pull_back(self.problem, segment, self.way)
        given = self.hparams, self._merge(weights), batches, outer, jnp.int32(t), carry
        carry, values, norms = program(*given)
        values, norms = (np.asarray(x, float) for x in (values, norms))
        if self.count:  # losses first, queries then
            values, norms = values.T, norms.max(0)
        values = values if ends else values[:0]
        self._check(segment, values, norms, numbers)
        return carry, values, float(norms[0])

    def _check(self, segment: Segment, values, norms, numbers) -> None:
        for j, value in zip(numbers, values):
            if not np.isfinite(value).all():
                what = "outer loss is not finite"
                raise NonFiniteLoss(what, "inner step", j * self.n, None, 0)
        bad = np.flatnonzero(~np.isfinite(norms))
        if bad.size:
            what = "the cotangent of the weights is not finite"
            step = segment.first + int(bad[-1]) + 1
            raise NonFiniteLoss(what, "inner step", step, None, 0)

    def _steps_back(self, segment: Segment) -> int:
        """Forward steps of Φ that the way back through a segment takes."""
        if self.way.snapshots is None or segment.steps == 1:
            return segment.steps
        return schedule(segment.steps, self.way.snapshots).steps

    def _save_back(self, k: int, carry: Carry, losses: list) -> None:
        write_tree(self.path / f"{BACK}-{k:08}", carry, {"losses": losses})
        for old in self.path.glob(f"{BACK}-*"):
            if old.name != f"{BACK}-{k:08}":
                old.unlink()
        self._states.pop(k + 1, None)
        if k + 1 < len(self.segments):
            (self.path / f"{k + 1:08}").unlink(missing_ok=True)

    def _log(self, direction: str, k: int, start: float, figures: dict) -> None:
        row = {"direction": direction, "segment": k, "step": self.segments[k].first}
        self.folder.log(row | {"seconds": time.perf_counter() - start} | figures)

    def _stop(self, stop: StopRequest, where: str) -> None:
        if stop.signal:
            name = signal.Signals(stop.signal).name
            raise Stopped(f"{name}: stopped after {where}, kept in {self.folder.path}")

    def finished(self):
        """The result of an earlier call that ended, or None."""
        if self.folder.summary is None:
            return None
        carry, done, losses = self._resumed()
        if done != 0:
            return None
        print(f"{self.folder.path}: this call has ended before, its result", file=sys.stderr)
        return self._result(carry, losses)

    def _result(self, carry: Carry, losses: list):
        result = Hypergradient(carry.first_order, like(carry.second_order, self.hparams))
        values = jnp.asarray(losses)
        values = values[-1] if self._single else values
        products = spend(no_products(), 2 * self.end - 1)
        last = self._merge(self.state(len(self.segments)))
        finite = is_finite((result, values))
        start = None if self.count else start_of(self.weights, self.moved, carry.alpha)
        steps = jnp.int32(self.horizon + sum(map(self._steps_back, self.segments[: self.back])))
        info = OfflineInfo(last, values, products, finite, start, steps)
        return result, info


def _norm(carry: Carry):
    return optax.tree.norm(optax.tree.add(carry.first_order, carry.second_order))


def _array(leaf):
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
