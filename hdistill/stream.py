"""Online learning of λ on one task: an endless stream of inner steps, a stretch at a time."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.checks import Signature, check_count, check_hparams, check_key, check_problem
from hdistill.hypergradient.base import Estimator
from hdistill.inner_loop import LearnerInfo, advance, fit_theta, theta_before
from hdistill.plan import Plan, draw, make_plan
from hdistill.problem import PyTree
from hdistill.tree import own


class StreamState(NamedTuple):
    """All that the stream carries from one stretch to the next."""

    signature: tuple[Signature, Signature]  # of (weights, hparams)
    done: jax.Array  # stretches done, int32 []
    key: jax.Array  # typed PRNG key [], the same throughout: draws are numbered by the step
    hparams: PyTree  # λ
    weights: PyTree  # w, which never restarts
    hyper_state: PyTree  # state of the hyper-optimizer
    estimate: PyTree  # state of the estimator, which never restarts either
    theta: PyTree  # what the estimator fits; 1 where nothing is fitted


class Stream(NamedTuple):
    """A learner of λ and w together: pure functions over `StreamState`.

    Attributes:
      init: `(key, hparams, weights, task) -> state`. `task` gives shapes.
      step: `(state, task) -> (state, info)`, compiled, the buffers of `state` donated.
    """

    init: Callable[..., StreamState]
    step: Callable[..., tuple[StreamState, LearnerInfo]]


def stream(
    problem,
    estimator: Estimator,
    *,
    hyper_optimizer: optax.GradientTransformation,
    steps: int,
    every: int = 1,
    fit_period: int | Callable = 50,
    sample_inner: Callable = lambda key, task: task[0],
    sample_outer: Callable = lambda key, task: task[1],
) -> Stream:
    """Online hyperparameter optimisation in standard learning (Appendix H of Lee et al. 2022).

    One task whose weights never restart:

        for t = 1, 2, ...:  w_t = Φ(w_{t-1}, λ; D_t);
                            where λ moves: λ ← hyper_optimizer(λ, g_t)

    Each call of `step` is one stretch of `steps` inner steps, one compiled program for all of them;
    between two stretches the state may be saved, and the run goes on from it to the same bits. How
    long a stretch is changes no draw and no result, except where θ is fitted: over the stretch to
    come, from the present weights.

    Args:
      problem: Φ and L_val.
      estimator: an online estimator, `hd.online.NAME(problem, ...)`.
      hyper_optimizer: optax transformation for λ; its state is carried.
      steps: inner steps of a stretch.
      every: λ moves after inner steps every, 2·every, ...; a divisor of `steps`.
      fit_period: θ is fitted before stretches 1, 1 + fit_period, ...; or a function of the stretch
        m = 1, 2, ... (a traced int32) that says whether to fit before the m-th.
      sample_inner: `(key, task) -> batch` for Φ, drawn anew for each inner step. By default a task
        is a pair and its first half is the batch.
      sample_outer: `(key, task) -> batch` for L_val, likewise; by default the second half.

    Returns:
      A `Stream`. Its `info` has one entry for each inner step of the stretch.

    Raises:
      ValueError: steps, every or fit_period below 1; an `every` that does not divide `steps`; an
        estimator that is not online; a hyper_optimizer of another kind; from `init`, a key that is
        none and a Φ or L_val that is not one (see `hdistill.checks`).
    """
    if not isinstance(estimator, Estimator):
        raise ValueError(
            f"estimator={estimator!r}: expected hd.online.NAME(problem, ...), since a stream has "
            "no end at which an offline method could look back"
        )
    steps, every = check_count("steps", steps), check_count("every", every)
    if steps % every:
        raise ValueError(f"every={every}: expected a divisor of steps={steps}")
    plan = make_plan(
        problem,
        estimator,
        hyper_optimizer,
        None,
        steps,
        every,
        None,
        fit_period,
        sample_inner,
        sample_outer,
    )

    def init(key, hparams, weights, task) -> StreamState:
        check_key(key)
        check_hparams(hparams)
        batch, outer_batch, _ = jax.eval_shape(lambda k, t: draw(plan, k, t, 0), key, task)
        check_problem(problem, hparams, weights, batch, outer_batch)
        key, hparams, weights = jax.tree.map(own, (key, hparams, weights))
        return StreamState(
            (Signature.of(weights), Signature.of(hparams)),
            jnp.zeros((), jnp.int32),
            key,
            hparams,
            weights,
            hyper_optimizer.init(hparams),
            jax.tree.map(own, estimator.init(weights, hparams, draw(plan, key, task, 0)[0])),
            theta_before(estimator),
        )

    return Stream(init, jax.jit(lambda state, task: _stretch(plan, state, task), donate_argnums=0))


def _stretch(plan: Plan, state: StreamState, task):
    state.signature[0].check("state.weights", state.weights)
    state.signature[1].check("state.hparams", state.hparams)

    def add_axis(tree):
        return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)

    def drop_axis(tree):
        return jax.tree.map(lambda x: x[0], tree)

    tasks, (steps_key, fit_key) = add_axis(task), jax.random.split(state.key)
    fit_keys = jax.random.fold_in(fit_key, state.done)[None]
    theta, fit_cost = fit_theta(plan, state, tasks, fit_keys, drop_axis)
    state = state._replace(theta=theta)
    starts, first = add_axis((state.weights, state.estimate)), state.done * plan.horizon
    state, ends, info = advance(plan, state, starts, tasks, steps_key[None], drop_axis, first)
    weights, estimate = drop_axis(ends)
    state = state._replace(weights=weights, estimate=estimate, done=state.done + 1)
    return state, info._replace(products=info.products + fit_cost)
