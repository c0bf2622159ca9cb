"""One inner optimisation of a meta-batch of tasks, λ moving inside it or at its end."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hdistill.hypergradient.base import Transition
from hdistill.initialization import Initialization
from hdistill.problem import Problem


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


class Plan(NamedTuple):
    """The arguments of `hd.learner`, checked."""

    problem: Problem
    estimator: Any
    hyper_optimizer: optax.GradientTransformation
    initialization: Initialization | None
    horizon: int
    moves: np.ndarray  # whether λ moves after inner step t, bool [T]
    refits: Callable
    sample_inner: Callable
    sample_outer: Callable


def online_loop(plan: Plan, state, tasks, keys, mean):
    """T inner steps, λ moving inside. Returns (state, w_T of each task, info)."""
    estimator, problem = plan.estimator, plan.problem

    def start(task, key):
        estimate = estimator.init(state.weights, state.hparams, draw(plan, key, task, 0)[0])
        fitted = estimate if estimator.fit is None else estimate._replace(theta=state.theta)
        return state.weights, fitted

    def move(carry, transition_of, keys):
        (_, estimates), hparams, hyper_state = carry
        hyper, estimates = jax.vmap(
            lambda e, tr, k: estimator.step(e, tr._replace(hparams=hparams), k)
        )(estimates, transition_of, keys)
        loss = outer_losses(problem, transition_of, hparams)
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
        loss = mean(outer_losses(problem, transition_of, hparams))
        nan = jnp.full_like(optax.tree.norm(hparams), jnp.nan)  # of the norms' dtype, λ's
        return ((transition_of.current, estimates), hparams, hyper_state), (loss, nan, nan)

    def body(carry, at):
        t, moves = at
        (weights, _), hparams, _ = carry

        def advance(weights, task, key):
            batch, outer_batch, key = draw(plan, key, task, t)
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


def offline_loop(plan: Plan, state, tasks, keys, mean):
    """One inner optimisation, λ moving at its end. Returns (state, w_T of each task, info)."""

    def one(task, key):
        outer_batch = draw(plan, key, task, plan.horizon - 1)[1]
        return plan.estimator(
            plan.problem,
            state.hparams,
            state.weights,
            redraw(plan, key, task),
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


def draw(plan, key, task, t):
    """(D_t, the outer batch, a key for the estimator) of a task's inner step t."""
    inner_key, outer_key, key = jax.random.split(jax.random.fold_in(key, t), 3)
    return plan.sample_inner(inner_key, task), plan.sample_outer(outer_key, task), key


def redraw(plan, key, task):
    """t -> D_t, drawn again from the key whenever it is asked for."""
    return lambda t: draw(plan, key, task, t)[0]


def outer_losses(problem, transition_of, hparams):
    """L_val of each task; the compiler shares the forward pass with the gradient's."""
    return jax.vmap(problem.outer_loss, (0, None, 0))(
        transition_of.current, hparams, transition_of.outer_batch
    )
