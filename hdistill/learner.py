"""Algorithm 3 as a state transition: one inner optimisation of a meta-batch of tasks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hdistill.checks import Signature, check_count, check_hparams
from hdistill.hypergradient.base import Estimator, Transition
from hdistill.hypergradient.size import fit_products, least_squares
from hdistill.initialization import Initialization, params_of, with_params
from hdistill.problem import Problem, PyTree, leading_axis


class LearnerState(NamedTuple):
    """All that meta-learning carries from one inner optimisation to the next."""

    signature: tuple[Signature, Signature]  # of (weights, hparams)
    done: jax.Array  # inner optimisations done, int32 []
    key: jax.Array  # typed PRNG key []
    hparams: PyTree  # λ
    weights: PyTree  # φ, the weights that each inner optimisation starts from
    hyper_state: PyTree  # state of the hyper-optimizer
    initialization_state: PyTree  # state of the optimizer of φ, or None
    theta: jax.Array  # θ of Eq. 15, floating []; 1 where nothing is fitted


class LearnerInfo(NamedTuple):
    """Diagnostics of one inner optimisation, means over the meta-batch.

    Attributes:
      outer_loss: L_val(w_t, λ) at t = 1..T, before λ moves there, floating [T]. An offline method
        takes it at the end alone: [1], here and below.
      theta: θ in force, floating [].
      products: Jacobian products of Φ spent for each task, a fit of θ included, int32 [].
      first_order_norm: ‖g^FO‖ of the meta-batch's mean, floating [T]; nan where λ does not move.
      second_order_norm: ‖g^SO‖, likewise.
    """

    outer_loss: jax.Array
    theta: jax.Array
    products: jax.Array
    first_order_norm: jax.Array
    second_order_norm: jax.Array


class Learner(NamedTuple):
    """A meta-learner: pure functions over `LearnerState`.

    Attributes:
      init: `(key, hparams, weights) -> state`.
      step: `(state, tasks) -> (state, info)`, compiled, the buffers of `state` donated: use the
        state it returns, not the one passed in.
      transition: the same step, neither compiled nor donated, with `axis_name` of a mapped device
        axis over which tasks are spread; what `pmap_step` maps.
    """

    init: Callable[..., LearnerState]
    step: Callable[..., tuple[LearnerState, LearnerInfo]]
    transition: Callable[..., tuple[LearnerState, LearnerInfo]]


class _Plan(NamedTuple):
    """The learner's arguments, checked."""

    problem: Problem
    estimator: Any
    hyper_optimizer: optax.GradientTransformation
    initialization: Initialization | None
    horizon: int
    moves: np.ndarray  # whether λ moves after inner step t, bool [T]
    refits: Callable
    sample_inner: Callable
    sample_outer: Callable


def learner(
    problem: Problem,
    estimator: Estimator | Callable,
    *,
    hyper_optimizer: optax.GradientTransformation,
    initialization: Initialization | None = None,
    horizon: int,
    every: int = 1,
    last: int | None = None,
    fit_period: int | Callable = 50,
    sample_inner: Callable = lambda key, task: task[0],
    sample_outer: Callable = lambda key, task: task[1],
) -> Learner:
    """Online hyperparameter meta-learning (Algorithm 3 of Lee et al. 2022) with any estimator.

    A step is one inner optimisation of every task of a meta-batch from the shared φ, side by side:

        for t = 1..T:  w_t = Φ(w_{t-1}, λ; D_t) for each task;
                       where λ moves: λ ← hyper_optimizer(λ, mean over tasks of g_t)
        φ ← initialization(φ, w_T of the tasks)

    The whole of it is one compiled program for the whole run.

    Args:
      problem: Φ and L_val.
      estimator: an online estimator (`hd.online.NAME(problem, ...)`), or an offline method
        (`hd.offline.reverse_mode`, `hd.offline.drmad`, or a partial of one), for which λ moves
        once, at the end.
      hyper_optimizer: optax transformation for λ; its state is carried.
      initialization: `hd.reptile(...)`, `hd.fomaml(...)`, or None for a fixed φ.
      horizon: T, inner steps.
      every: λ moves after inner steps every, 2·every, ...
      last: λ moves in the last `last` inner steps only (the K of N.IFT); None for all.
      fit_period: θ is fitted (Algorithm 4, pooled over the meta-batch) before inner optimisations
        1, 1 + fit_period, 1 + 2·fit_period, ...; or a function of the number m = 1, 2, ... (a
        traced int32) that says whether to fit before the m-th.
      sample_inner: `(key, task) -> batch` for Φ, drawn anew for each inner step. By default a task
        is a pair and its first half is the batch.
      sample_outer: `(key, task) -> batch` for L_val, likewise; by default the second half.

    Returns:
      A `Learner`. `step(state, tasks)` takes tasks as a pytree with a leading meta-batch axis.

    Raises:
      ValueError: horizon, every, last or fit_period below 1; every or last with an offline method;
        hyperparameters that are not floating point; and, while tracing, whatever does not fit.
    """
    horizon = check_count("horizon", horizon)
    every, last = (
        check_count("every", every),
        check_count("last", horizon if last is None else last),
    )
    if not callable(estimator) and not isinstance(estimator, Estimator):
        raise ValueError(
            f"estimator={estimator!r}: expected hd.online.NAME(problem) or a method of hd.offline"
        )
    online = isinstance(estimator, Estimator)
    if not online and (every, last) != (1, horizon):
        raise ValueError(
            f"every={every}, last={last}: expected neither, since an offline method moves λ "
            "once, at the end"
        )
    if callable(fit_period):
        refits = fit_period
    else:
        period = check_count("fit_period", fit_period)
        refits = lambda m: (m - 1) % period == 0  # noqa: E731
    steps = np.arange(1, horizon + 1)
    plan = _Plan(
        problem,
        estimator,
        hyper_optimizer,
        initialization,
        horizon,
        (steps % every == 0) & (steps > horizon - last),
        refits,
        sample_inner,
        sample_outer,
    )
    inner = _inner_online if online else _inner_offline

    def init(key, hparams, weights) -> LearnerState:
        check_hparams(hparams)
        key, hparams, weights = jax.tree.map(jnp.copy, (key, hparams, weights))
        return LearnerState(
            (Signature.of(weights), Signature.of(hparams)),
            jnp.zeros((), jnp.int32),
            key,
            hparams,
            weights,
            hyper_optimizer.init(hparams),
            initialization.optimizer.init(params_of(weights)) if initialization else None,
            jnp.ones(()),
        )

    def transition(state, tasks, axis_name=None):
        return _transition(plan, inner, state, tasks, axis_name)

    return Learner(init, jax.jit(transition, donate_argnums=0, static_argnums=2), transition)


def _transition(plan: _Plan, inner, state: LearnerState, tasks, axis_name):
    state.signature[0].check("state.weights", state.weights)
    state.signature[1].check("state.hparams", state.hparams)
    size = leading_axis(tasks, "tasks")

    def mean(tree):
        tree = jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)
        return jax.lax.pmean(tree, axis_name) if axis_name else tree

    key, step_key = jax.random.split(state.key)
    first = jax.lax.axis_index(axis_name) * size if axis_name else 0
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, first + jnp.arange(size))
    theta, fit_cost = _fit(plan, state, tasks, keys, mean)
    state = state._replace(key=key, theta=theta, done=state.done + 1)
    state, final, info = inner(plan, state, tasks, keys, mean)
    state = _learn_initialization(plan, state, final, tasks, keys, mean)
    return state, info._replace(theta=theta, products=info.products + fit_cost)


def _fit(plan, state, tasks, keys, mean):
    """(θ, products spent on it): refitted where it is due, over all tasks' samples together."""
    if not isinstance(plan.estimator, Estimator) or plan.estimator.fit is None:
        return state.theta, 0
    due = plan.refits(state.done + 1)

    def sums(task, key):
        key = jax.random.fold_in(key, plan.horizon)
        batch_at = _batches(plan, key, task)
        outer_key, mix_key = jax.random.split(jax.random.fold_in(key, plan.horizon))
        outer_batch = plan.sample_outer(outer_key, task)
        x, y = plan.estimator.fit(
            state.hparams, state.weights, batch_at, plan.horizon, outer_batch, mix_key
        )
        return jnp.vdot(x, y).astype(state.theta.dtype), jnp.vdot(x, x).astype(state.theta.dtype)

    zeros = (jnp.zeros((leading_axis(tasks, "tasks"),), state.theta.dtype),) * 2
    xy, xx = mean(jax.lax.cond(due, lambda: jax.vmap(sums)(tasks, keys), lambda: zeros))
    return jnp.where(due, least_squares(xy, xx), state.theta), due * fit_products(plan.horizon)


def _inner_online(plan, state, tasks, keys, mean):
    """T inner steps, λ moving inside. Returns (state, w_T of each task, info)."""
    estimator, problem = plan.estimator, plan.problem

    def start(task, key):
        estimate = estimator.init(state.weights, state.hparams, _draw(plan, key, task, 0)[0])
        fitted = estimate if estimator.fit is None else estimate._replace(theta=state.theta)
        return state.weights, fitted

    def move(carry, transition_of, keys):
        (_, estimates), hparams, hyper_state = carry
        hyper, estimates = jax.vmap(
            lambda e, tr, k: estimator.step(e, tr._replace(hparams=hparams), k)
        )(estimates, transition_of, keys)
        loss = _outer_losses(problem, transition_of, hparams)
        hyper = mean(hyper)
        updates, hyper_state = plan.hyper_optimizer.update(hyper.total, hyper_state, hparams)
        norms = (optax.tree.norm(hyper.first_order), optax.tree.norm(hyper.second_order))
        carry = (
            (transition_of.current, estimates),
            optax.apply_updates(hparams, updates),
            hyper_state,
        )
        return carry, (mean(loss), *norms)

    def stay(carry, transition_of, keys):
        (_, estimates), hparams, hyper_state = carry
        estimates = jax.vmap(
            lambda e, tr, k: estimator.observe(e, tr._replace(hparams=hparams), k)
        )(estimates, transition_of, keys)
        loss = mean(_outer_losses(problem, transition_of, hparams))
        nan = jnp.full_like(loss, jnp.nan)
        return ((transition_of.current, estimates), hparams, hyper_state), (loss, nan, nan)

    def body(carry, at):
        t, moves = at
        (weights, _), hparams, _ = carry

        def advance(weights, task, key):
            batch, outer_batch, key = _draw(plan, key, task, t)
            current = problem.update(weights, hparams, batch)
            return Transition(weights, current, None, batch, outer_batch), key

        transition_of, step_keys = jax.vmap(advance)(weights, tasks, keys)
        if plan.moves.all():
            return move(carry, transition_of, step_keys)
        return jax.lax.cond(moves, move, stay, carry, transition_of, step_keys)

    carry = jax.vmap(start)(tasks, keys), state.hparams, state.hyper_state
    steps = (jnp.arange(plan.horizon), jnp.asarray(plan.moves))
    ((final, estimates), hparams, hyper_state), seen = jax.lax.scan(body, carry, steps)
    loss, first, second = seen
    info = LearnerInfo(loss, state.theta, jnp.max(estimates.products), first, second)
    return state._replace(hparams=hparams, hyper_state=hyper_state), final, info


def _inner_offline(plan, state, tasks, keys, mean):
    """One inner optimisation, λ moving at its end. Returns (state, w_T of each task, info)."""

    def one(task, key):
        outer_batch = _draw(plan, key, task, plan.horizon - 1)[1]
        return plan.estimator(
            plan.problem,
            state.hparams,
            state.weights,
            _batches(plan, key, task),
            outer_batch,
            horizon=plan.horizon,
            return_info=True,
        )

    hyper, seen = jax.vmap(one)(tasks, keys)
    hyper = mean(hyper)
    updates, hyper_state = plan.hyper_optimizer.update(
        hyper.total, state.hyper_state, state.hparams
    )
    hparams = optax.apply_updates(state.hparams, updates)

    info = LearnerInfo(
        mean(seen.outer_loss)[None],
        state.theta,
        jnp.max(seen.products).astype(jnp.int32),
        optax.tree.norm(hyper.first_order)[None],
        optax.tree.norm(hyper.second_order)[None],
    )
    return state._replace(hparams=hparams, hyper_state=hyper_state), seen.weights, info


def _learn_initialization(plan, state, final, tasks, keys, mean):
    """φ ← φ + what the tasks' gradients say; φ itself where there is no rule."""
    rule = plan.initialization
    if rule is None:
        return state

    def gradient(weights, task, key):
        outer_batch = _draw(plan, key, task, plan.horizon - 1)[1]
        return rule.gradient(plan.problem, state.weights, weights, state.hparams, outer_batch)

    gradients = mean(jax.vmap(gradient)(final, tasks, keys))
    params = params_of(state.weights)
    updates, rule_state = rule.optimizer.update(gradients, state.initialization_state, params)
    weights = with_params(state.weights, optax.apply_updates(params, updates))
    return state._replace(weights=weights, initialization_state=rule_state)


def _draw(plan, key, task, t):
    """(D_t, the outer batch, a key for the estimator) of a task's inner step t."""
    inner_key, outer_key, key = jax.random.split(jax.random.fold_in(key, t), 3)
    return plan.sample_inner(inner_key, task), plan.sample_outer(outer_key, task), key


def _batches(plan, key, task):
    """t -> D_t, drawn again from the key whenever it is asked for."""
    return lambda t: _draw(plan, key, task, t)[0]


def _outer_losses(problem, transition_of, hparams):
    """L_val of each task; the compiler shares the forward pass with the gradient's."""
    return jax.vmap(problem.outer_loss, (0, None, 0))(
        transition_of.current, hparams, transition_of.outer_batch
    )
