"""How close each method's online hypergradient is to the exact one, and what it costs."""

import functools
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hdistill.checks import check_key, check_problem
from hdistill.hypergradient.base import Estimator, Transition
from hdistill.hypergradient.reverse_mode import online_reverse_mode
from hdistill.problem import PyTree, batch_stream
from hdistill.tree import shapes


class Fidelity(NamedTuple):
    """A method against exact reverse mode, after each of T inner steps.

    Attributes:
      cosine: cos(g_t, exact g_t) of g = g^FO + g^SO, floating [T]; nan where one of them is 0.
      ratio: ‖g_t‖ / ‖exact g_t‖, floating [T]; inf or nan where the exact one is 0.
      second_order_cosine: the same of g^SO alone.
      second_order_ratio: likewise.
      theta: θ that was fitted before the first step, a float (or the method's own tree of them);
        nan where nothing is fitted.
      products: Jacobian products of Φ over the T steps, a fit of θ included.
      seconds: for the T steps and the fit, compiled; the fastest of three runs, or of those made
        in the first 5 s.
      memory: bytes the compiled program needs besides its arguments and results.
    """

    cosine: np.ndarray
    ratio: np.ndarray
    second_order_cosine: np.ndarray
    second_order_ratio: np.ndarray
    theta: PyTree
    products: int
    seconds: float
    memory: int


def compare(
    problem, methods, hparams, weights, batches, outer_batch, *, horizon=None, key=None
) -> dict[str, Fidelity]:
    """Runs one inner optimisation at fixed λ and holds each method's g_t against exact RMD's.

    After each inner step t = 1..T,

        cos_t = ⟨g_t, e_t⟩ / (‖g_t‖ ‖e_t‖),  ratio_t = ‖g_t‖ / ‖e_t‖

    with g_t the method's hypergradient and e_t that of reverse mode through all t steps
    (Section 5.1 of Lee et al. 2022, Figure 3). A method with a size to be fitted has θ fitted once,
    before the first step, from the same w_0 and λ (Algorithm 4).

    The exact pass costs T² products and keeps T weights and batches.

    Args:
      problem: Φ and L_val.
      methods: online estimators by name, `{"one-step": hd.online.one_step(problem), ...}`.
      hparams: λ, a floating-point pytree.
      weights: w_0, a pytree.
      batches: stacked [T, ...], or a function t -> batch (t = 0..T-1) with `horizon`.
      outer_batch: the batch of L_val, the same at every t.
      horizon: T, where `batches` does not tell it.
      key: typed PRNG key, for methods that draw; by default `jax.random.key(0)`.

    Returns:
      A `Fidelity` for each method, in order, and one for the exact pass, named "exact". Where
      e_t or g_t is 0 (at t = 1 with w_0 = 0, say) the cosine is nan.

    Raises:
      ValueError: methods that are no estimators or are named "exact", or arguments that do not fit
        together; see `hdistill.checks`.
    """
    if not isinstance(methods, Mapping):
        raise ValueError(f"methods={methods!r}: expected a dict of estimators by name")
    for name, estimator in methods.items():
        if not isinstance(estimator, Estimator) or name == "exact":
            raise ValueError(
                f"methods[{name!r}]={estimator!r}: expected hd.online.NAME(problem, ...), "
                "under another name than 'exact'"
            )
    batch_at, horizon = batch_stream(batches, horizon)
    batch = jax.eval_shape(batch_at, jnp.zeros((), jnp.int32))
    check_problem(problem, hparams, weights, batch, shapes(outer_batch))
    key = jax.random.key(0) if key is None else key
    check_key(key)
    batches = jax.lax.map(batch_at, jnp.arange(horizon))
    arguments = jax.tree.map(jnp.asarray, (hparams, weights, batches, outer_batch, key))
    exact = online_reverse_mode(problem, window=horizon)
    results, reference = {}, None
    for name, estimator in {"exact": exact, **methods}.items():
        found, cost = _measure(problem, estimator, horizon, arguments)
        reference = found if reference is None else reference
        results[name] = Fidelity(
            *_closeness(optax.tree.add(*found), optax.tree.add(*reference)),
            *_closeness(found.second_order, reference.second_order),
            *cost,
        )
    return {**{name: results[name] for name in methods}, "exact": results["exact"]}


def _measure(problem, estimator, horizon, arguments):
    """(hypergradients stacked [T, ...], (θ, products, seconds, bytes)) of a whole run."""
    leaves, structure = jax.tree.flatten(shapes(arguments))
    program = _compile(problem, estimator, horizon, tuple(leaves), structure)
    seconds: list[float] = []
    while len(seconds) < 3 and sum(seconds) < 5:
        start = time.perf_counter()
        found, theta, products = jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - start)
    fit = estimator.fit.products(horizon) if estimator.fit is not None else 0
    memory = program.memory_analysis().temp_size_in_bytes
    theta = jax.tree.map(float, theta)
    return found, (theta, int(products) + fit, min(seconds), memory)


@functools.lru_cache(maxsize=64)
def _compile(problem, estimator, horizon, leaves, structure):
    """The program of a whole run, compiled once for tasks of the same shapes.

    The last 64 programs stay in memory, with what their problems and estimators hold.
    """

    def trace(hparams, weights, batches, outer_batch, key):
        batch_at = batch_stream(batches, horizon)[0]
        state = estimator.init(weights, hparams, batch_at(jnp.zeros((), jnp.int32)))
        theta = jnp.nan
        if estimator.fit is not None:
            arguments = (hparams, weights, batch_at, horizon, outer_batch, key)
            theta = estimator.fit.solve(estimator.fit.measure(*arguments))
            theta = jax.tree.map(lambda new, old: new.astype(old.dtype), theta, state.theta)
            state = state._replace(theta=theta)

        def body(carry, t):
            previous, state = carry
            batch = batch_at(t)
            current = problem.update(previous, hparams, batch)
            transition = Transition(previous, current, hparams, batch, outer_batch)
            found, state = estimator.step(state, transition, jax.random.fold_in(key, t))
            return (current, state), found

        (_, state), found = jax.lax.scan(body, (weights, state), jnp.arange(horizon))
        return found, theta, state.products

    return jax.jit(trace).lower(*jax.tree.unflatten(structure, leaves)).compile()


def _closeness(actual, exact):
    """(cosine, norm ratio) of two trees step by step, [T] each."""

    def one(a, b):
        dot, norm, exact_norm = optax.tree.vdot(a, b), optax.tree.norm(a), optax.tree.norm(b)
        return dot / (norm * exact_norm), norm / exact_norm

    return map(np.asarray, jax.jit(jax.vmap(one))(actual, exact))
