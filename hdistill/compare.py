"""The closeness of each online method's hypergradient to the exact one, and its cost."""

import math
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hdistill.cache import is_tracing
from hdistill.checks.values import check_key, is_concrete
from hdistill.hypergradient.estimator import Estimator, Transition, spend
from hdistill.hypergradient.fit import FitStatus
from hdistill.hypergradient.offline_method import Arguments, open_offline
from hdistill.hypergradient.outer_losses import OuterLosses
from hdistill.hypergradient.reverse_mode import online_reverse_mode
from hdistill.problem import InnerRun


class Fidelity(NamedTuple):
    """A method against exact reverse mode, after each of T inner steps.

    Attributes:
      cosine: cos(g_t, exact g_t) of g = g^FO + g^SO, floating [T]; nan where one of them is 0.
      ratio: ‖g_t‖ / ‖exact g_t‖, floating [T]; inf or nan where the exact one is 0.
      second_order_cosine: the same of g^SO only.
      second_order_ratio: likewise.
      theta: θ in use, a float; nan where nothing is fitted.
      fit: what became of its fit before the first step, an `hd.FitStatus`.
      products: Jacobian products of Φ over the T steps, a fit of θ included.
      seconds: for the T steps and the fit, compiled; the fastest of three runs, or of those made
        in the first 5 s.
      memory: bytes the compiled program needs besides its arguments and results.
    """

    cosine: np.ndarray
    ratio: np.ndarray
    second_order_cosine: np.ndarray
    second_order_ratio: np.ndarray
    theta: float
    fit: FitStatus
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
    before the first step, from the same w_0 and λ (Algorithm 4); a θ that is not finite or not
    positive is refused, and 1 stays in use.

    The exact pass costs T² products and keeps T weights and batches. It differentiates Φ, whatever
    the problem's surrogate.

    Examples:
      >>> methods = {"1-step": hd.online.one_step(problem), "greedy": hd.online.greedy(problem)}
      >>> of = hd.compare(problem, methods, hparams, weights, batches, outer_batch, horizon=20)
      >>> print({name: f"{of[name].cosine.mean():.2f}" for name in of})
      {'1-step': '0.78', 'greedy': '0.40', 'exact': '1.00'}

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
      ValueError: methods that are not estimators or are named "exact", or arguments that do not fit
        together; see `hdistill.checks`.
    """
    if not isinstance(methods, Mapping) or not all(isinstance(name, str) for name in methods):
        raise ValueError(f"methods={methods!r}: expected a dict of estimators by name")
    for name, estimator in methods.items():
        if not isinstance(estimator, Estimator) or name == "exact":
            raise ValueError(
                f"methods[{name!r}]={estimator!r}: expected hd.online.NAME(problem, ...), "
                "under another name than 'exact'"
            )
    key = jax.random.key(0) if key is None else key
    check_key(key)
    given = jax.tree.leaves((hparams, weights, outer_batch, key))
    if is_tracing() or not all(map(is_concrete, given)):
        raise ValueError(
            "hd.compare measures seconds: expected a call outside jax.jit and jax.vmap"
        )
    arguments = Arguments(problem, hparams, weights, batches, outer_batch, horizon)
    results, reference = {}, None
    for name, estimator in {"exact": None, **methods}.items():
        with jax.disable_jit(False):  # what is measured is compiled, whatever the settings
            hypergradient, cost = _measure(estimator, arguments, key)
        reference = hypergradient if reference is None else reference
        results[name] = Fidelity(
            *_closeness(optax.tree.add(*hypergradient), optax.tree.add(*reference)),
            *_closeness(hypergradient.second_order, reference.second_order),
            *cost,
        )
    return {**{name: results[name] for name in methods}, "exact": results["exact"]}


def _measure(estimator, arguments, key):
    """(hypergradients stacked [T, ...], (θ, its status, products, seconds, bytes)) of a run."""
    program, arrays = open_offline(_run, "compare", None, arguments, estimator)
    program = program.lower(*arrays, key).compile()
    seconds: list[float] = []
    while len(seconds) < 3 and sum(seconds) < 5:
        start = time.perf_counter()
        hypergradient, theta, status, products = jax.block_until_ready(program(*arrays, key))
        seconds.append(time.perf_counter() - start)
    status = FitStatus(int(status))
    theta = float(theta) if status != FitStatus.NONE else math.nan
    memory = program.memory_analysis().temp_size_in_bytes
    return hypergradient, (theta, status, int(products), min(seconds), memory)


def _run(inner: InnerRun, losses: OuterLosses, key, estimator):
    """(g_t stacked [T, ...], θ in use, its `FitStatus`, products) of a whole run.

    Args:
      estimator: an online estimator, None for exact reverse mode.
    """
    hparams, horizon = inner.hparams, inner.horizon
    exact = inner.problem._replace(surrogate=None)
    estimator = estimator or online_reverse_mode(exact, window=horizon)
    first = jnp.zeros((), jnp.int32)
    outer_batch = losses.outer_batch_at(first)
    state = estimator.init(inner.weights, hparams, inner.batch_at(first))
    theta, status, fit = jnp.ones(()), jnp.int8(FitStatus.NONE), estimator.fit
    if fit is not None:
        statistics = fit.measure(inner, outer_batch, key)
        fitted, status = fit.accept(statistics, state.theta)
        state, theta = state._replace(theta=fitted), fit.theta_of(fitted)
        state = state._replace(products=spend(state.products, fit.products(horizon)))

    def body(carry, _):
        t, previous, state = carry
        current = inner.step(previous, t)
        transition = Transition(previous, current, hparams, inner.batch_at(t), outer_batch)
        hypergradient, state = estimator.step(state, transition, jax.random.fold_in(key, t))
        return (t + 1, current, state), hypergradient

    (_, _, state), hypergradient = jax.lax.scan(body, (first, inner.weights, state), length=horizon)
    return hypergradient, theta, status, state.products


def _closeness(actual, exact):
    """(cosine, norm ratio) of two trees step by step, [T] each."""
    dot, norm, exact_norm = map(np.asarray, _products(actual, exact))
    with np.errstate(divide="ignore", invalid="ignore"):  # nan is meant where a norm is 0
        return dot / (norm * exact_norm), norm / exact_norm


@jax.jit
@jax.vmap
def _products(a, b):
    """(⟨a, b⟩, ‖a‖, ‖b‖) of two trees step by step."""
    return optax.tree.vdot(a, b), optax.tree.norm(a), optax.tree.norm(b)
