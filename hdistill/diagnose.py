"""Checks before one believes a hypergradient: is it right, is training smooth, what is enough."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hdistill import offline
from hdistill.cache import is_tracing
from hdistill.checks.batches import batch_shapes, batch_stream, count_steps
from hdistill.checks.problem import check_functions, check_problem
from hdistill.checks.reach import reaching_hparams
from hdistill.checks.values import check_hparams, check_key, check_positive, check_weights, named
from hdistill.diagnosis import Cheaper, Diagnosis, alarms_of, notes_of
from hdistill.hypergradient.moving import moving_run
from hdistill.hypergradient.offline_method import is_offline
from hdistill.hypergradient.reverse_mode import stored
from hdistill.problem import InnerRun, Problem
from hdistill.products import outer_pullback
from hdistill.smoothness import agreement, along, direction
from hdistill.tree import is_real, split, wide

EPSILONS = 4.0 ** -np.arange(1, 15)  # of a direction as long as λ


def diagnose(
    problem: Problem,
    hparams,
    weights,
    batches,
    outer_batch,
    *,
    key,
    horizon: int | None = None,
    method: Callable = offline.reverse_mode,
    step: float = 0.05,
    cheaper: Mapping[str, Callable] | None = None,
    precise: Problem | None = None,
) -> Diagnosis:
    """Checks a hypergradient before one believes it; prints as a table, with alarms in words.

    - *Right*: along a random direction v the remainder |f(λ + εv) - f(λ) - ε g·v|, with
      f(λ) = L_val(w_T(λ), λ), falls with slope 2 in ε if g is f's derivative, with slope 1 if not.
      No step size is chosen: ε goes through 14 powers of 4, in float64 where Φ runs in it.
    - *Smooth*: Ŝ of three trainings along a direction of ±1 (`hd.smoothness`). Where it is low the
      exact hypergradient is right and says little of what any change of λ does.
    - finite everywhere; cosine to float64; leaves of λ without a path; the growth of ‖α_t‖ on the
      way back; the cosine and the products of cheaper methods, of which it names the cheapest above
      0.95.

    29 trainings, two hypergradients of the method and two exact ones; the weights of all T steps
    in memory.

    Examples:
      >>> report = hd.diagnose(
      ...     problem, hparams, weights, batches, outer_batch, key=jax.random.key(0), horizon=20
      ... )
      >>> report.alarms
      ()
      >>> print(f"slope {report.slope:.1f}, Ŝ {report.smoothness:.2f}")
      slope 2.0, Ŝ 1.00

    Args:
      problem: Φ and L_val.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      outer_batch: the batch of L_val.
      key: typed PRNG key, for the directions.
      horizon: T, where `batches` does not tell it.
      method: the offline method whose hypergradient is checked.
      step: h, of each leaf's root mean square where that is below 1 (rates), else of 1.
      cheaper: offline methods by name to hold against exact reverse mode; None for first_order,
        one_step, implicit, drmad straight and in 6 pieces, and the last tenth of the steps.
      precise: the same problem without half precision, where Φ or L_val computes in it inside
        (bfloat16 of float32 weights): the cosine is taken to its float64 hypergradient. None for
        that of `problem`, whose own casts stay.

    Returns:
      A `Diagnosis`.

    Raises:
      ValueError: arguments that do not fit together; a call inside `jax.jit`.
    """
    check_functions(problem)
    if precise is not None and not isinstance(precise, Problem):
        raise ValueError(f"precise={precise!r}: expected an hd.Problem, or None")
    check_key(key)
    step = check_positive("step", step)
    if not is_offline(method):
        raise ValueError(
            f"method={method!r}: expected a method of hd.offline, or a function called like one"
        )
    if is_tracing():
        raise ValueError("hd.diagnose: expected a call outside jax.jit and jax.vmap")
    horizon = count_steps(batches, horizon)
    check_hparams(hparams)
    check_weights(weights)
    batch_at = batch_stream(batches)
    example = batch_shapes("batches", batch_at)
    check_problem(problem, hparams, weights, example, outer_batch)
    if precise is not None:
        check_problem(precise, hparams, weights, example, outer_batch)
    case = _Case(problem, hparams, weights, batches, outer_batch, horizon)
    found = _measure(case, method, key, step, problem if precise is None else precise)
    methods = _cheaper(horizon) if cheaper is None else dict(cheaper)
    with warnings.catch_warnings(action="ignore"):
        compared = _compare(case, methods)
    reached = reaching_hparams(problem, hparams, weights, example, outer_batch, horizon)
    names = [path for path, _ in named(hparams, "hparams")]
    unreached = tuple(name for name, live in zip(names, reached) if not live)
    found |= {"unreached": unreached, "cheaper": compared}
    return Diagnosis(**found, alarms=alarms_of(found), notes=notes_of(found, 2 * horizon - 1))


class _Case(NamedTuple):
    """The arguments, and what is computed of them."""

    problem: Problem
    hparams: Any
    weights: Any
    batches: Any
    outer_batch: Any
    horizon: int

    def run(self, hparams) -> InnerRun:
        """The inner optimisation at another λ."""
        batch_at = batch_stream(self.batches)
        return InnerRun(self.problem, hparams, self.weights, batch_at, self.horizon)

    def train(self, hparams):
        """(L_val, w_T) at another λ."""
        end, _ = self.run(hparams).steps()
        return self.problem.outer_loss(end, hparams, self.outer_batch), end

    def hypergradient(self, method: Callable):
        """(g, info) of a method."""
        *given, horizon = self
        return method(*given, horizon=horizon, return_info=True)

    def in_float64(self, x64: bool) -> "_Case":
        """The case with λ and w_0 in float64, its batches as they are where `x64` is JAX's."""

        def cast(tree):
            return jax.tree.map(lambda x: np.asarray(x, np.float64) if is_real(x) else x, tree)

        def batches(t):  # random numbers are others in float64
            with jax.enable_x64(x64):
                return self.batches(t)

        given = batches if callable(self.batches) else self.batches
        return self._replace(hparams=cast(self.hparams), weights=cast(self.weights), batches=given)


def _measure(case: _Case, method: Callable, key, step: float, precise: Problem) -> dict:
    """All of a `Diagnosis` but the methods beside it."""
    with warnings.catch_warnings(action="ignore"):
        g, info = case.hypergradient(method)
    g, fine = jax.device_get(g.total), bool(info.finite)
    train = jax.jit(lambda h: case.train(h))
    loss, end = train(case.hparams)
    again = jax.jit(lambda h: (case.train(h), 0))(case.hparams)[0][0]  # traced and compiled anew
    repeats = float(abs(loss - again) / jnp.maximum(abs(loss), 1e-30))
    smoothness, curvature, predicted = _smoothness(case, g, key, step)
    bad = _first_bad(case, g, loss, end) if not fine else ""
    growth = np.zeros(0) if bad else _growth(case)
    x64 = jax.config.read("jax_enable_x64")
    with jax.enable_x64(True), warnings.catch_warnings(action="ignore"):
        try:
            wide_case = case.in_float64(x64)
            g64 = jax.device_get(wide_case.hypergradient(method)[0].total)
        except (TypeError, ValueError):
            wide_case, g64, precision = None, g, np.nan
        if wide_case is not None:
            exact = g64
            if precise is not case.problem:
                other, _ = wide_case._replace(problem=precise).hypergradient(method)
                exact = jax.device_get(other.total)
            precision = _cosine(g, exact)
            taylor = _taylor(wide_case, g64, key, float(np.finfo(np.float64).eps))
    if wide_case is None:
        taylor = _taylor(case, g, key, float(np.finfo(np.float32).eps))
    return taylor | {
        "repeats": repeats,
        "smoothness": smoothness,
        "curvature": curvature,
        "predicted": predicted,
        "finite": fine,
        "first_bad": bad,
        "precision": precision,
        "growth": growth,
    }


def _taylor(case: _Case, g, key, eps: float) -> dict:
    """The remainders along a random direction as long as λ, and their slope where ε is small."""
    direction = optax.tree.random_like(key, case.hparams)
    length = max(float(optax.tree.norm(case.hparams)), 1.0)
    unit = length / float(optax.tree.norm(direction))
    direction = jax.tree.map(lambda d: unit * d, direction)

    @jax.jit
    def along(epsilons):
        def one(epsilon):
            moved = jax.tree.map(
                lambda h, d: h + epsilon.astype(h.dtype) * d, case.hparams, direction
            )
            return case.train(moved)[0]

        return jax.lax.map(one, epsilons)

    # Rounding shows where λ changes in its last digit; that of float32 inside a Φ of float64 only
    # where λ changes by as much: there in second differences, which the slope is not in.
    inside = np.array([1e-8, 3e-8, 1e-7]) if eps < 1e-8 else np.zeros(0)
    tiny = np.array([0.0, eps, -eps, 2 * eps])
    given = np.concatenate([tiny, inside, -inside, EPSILONS])
    values = np.asarray(along(jnp.asarray(given)), float)
    parts = np.split(values, np.cumsum([1, len(tiny) - 1, len(inside), len(inside)]))
    at, near, ahead, behind, values = parts[0][0], *parts[1:]
    remainders = np.abs(values - at - EPSILONS * _dot(g, direction))
    changes = np.abs(np.concatenate([near - at, ahead - 2 * at + behind]))
    noise = 8 * float(np.max(changes)) + 8 * eps * abs(at)
    seen = np.flatnonzero(np.isfinite(remainders) & (remainders > 4 * noise))
    slope = np.nan
    if seen.size >= 3:
        last = seen[-3:]
        slope = float(np.polyfit(np.log(EPSILONS[last]), np.log(remainders[last]), 1)[0])
    elif not np.isfinite(at):
        slope = 0.0
    return {"slope": slope, "epsilons": EPSILONS, "remainders": remainders, "noise": noise}


def _smoothness(case: _Case, g, key, step: float) -> tuple[float, float, float]:
    """(Ŝ, S, how well g predicts the loss at λ + hv), of a direction of ±1."""
    v = direction(jax.random.fold_in(key, 1), case.hparams)

    @jax.jit
    def trainings():
        return jax.lax.map(case.train, along(case.hparams, v, step))

    loss, ends = trainings()
    first, second, third = np.asarray(loss, float)
    change, told = second - first, step * _dot(g, v)
    predicted = 1 - abs(change - told) / max(abs(change), abs(told), 1e-300)
    curvature = abs(third - 2 * second + first) / step**2
    return float(agreement(ends)), float(curvature), float(predicted)


def _growth(case: _Case) -> np.ndarray:
    """‖α_t ∘ w_t‖ / ‖α_T ∘ w_T‖ on the exact way back, from t = T - 1 down."""

    def felt(alpha, weights):
        """By relative changes of the weights, whose units then do not matter."""
        products = [a * w for a, w in zip(alpha, split(weights)[0])]
        return optax.tree.norm(wide([jnp.where(jnp.isfinite(x), x, 0) for x in products]))

    @jax.jit
    def norms():
        run = moving_run(case.run(case.hparams))[0]
        last, pull = stored(run)
        _, alpha, direct = outer_pullback(run.problem, last, case.hparams, case.outer_batch)

        def visit(carry, t, weights, batch, alpha, total):
            return carry, alpha, felt(alpha, weights)

        pulled = pull(alpha, optax.tree.zeros_like(wide(case.hparams)), direct, visit)
        return felt(alpha, last), pulled.outputs

    end, along = jax.device_get(norms())
    return np.asarray(along, float)[::-1] / max(float(end), 1e-300)


def _first_bad(case: _Case, g, loss, end) -> str:
    """What is not finite first: the weights, at which step; the loss; a leaf of g."""

    if not bool(jnp.isfinite(loss)):
        fine = np.asarray(jax.jit(lambda h: case.run(h).finite_steps())(case.hparams))
        if not fine.all():
            return f"the weights after inner step {int(np.argmin(fine)) + 1}"
        return "the outer loss"
    bad = [path for path, x in named(g, "hparams") if not np.isfinite(x).all()]
    return f"the hypergradient of {bad[0]}" if bad else "the hypergradient"


def _cheaper(horizon: int) -> dict[str, Callable]:
    methods: dict[str, Callable] = {
        "first_order": offline.first_order,
        "one_step": offline.one_step,
        "implicit": functools.partial(offline.implicit, terms=5),
        "drmad": offline.drmad,
    }
    if horizon >= 20:
        window = horizon // 10
        methods[f"last {window} steps"] = functools.partial(offline.reverse_mode, window=window)
    if horizon > 6:
        methods["drmad, 6 anchors"] = functools.partial(offline.drmad, anchors=6)
    return methods


def _compare(case: _Case, methods: dict[str, Callable]) -> dict[str, Cheaper]:
    found: dict[str, Cheaper] = {}
    if not methods:
        return found
    exact = case.hypergradient(offline.reverse_mode)[0].total
    for name, method in methods.items():
        g, info = case.hypergradient(method)
        found[name] = Cheaper(_cosine(g.total, exact), int(info.products))
    return found


def _dot(a, b) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b))
    return sum(float(np.vdot(np.asarray(x, float), np.asarray(y, float))) for x, y in pairs)


def _cosine(a, b) -> float:
    first, second = (
        np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])
        for tree in (a, b)
    )
    norm = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / norm) if norm > 0 else float(not (first.any() or second.any()))
