"""One inner optimisation of a meta-batch of tasks, λ moving inside it or at its end."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hdistill.hypergradient.base import Estimator, Transition
from hdistill.plan import Plan, draw, redraw


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


def online_loop(plan: Plan, state, tasks, keys, mean):
    """T inner steps from φ, λ moving inside. Returns (state, w_T of each task, info)."""

    def start(task, key):
        batch = draw(plan, key, task, 0)[0]
        return state.weights, plan.estimator.init(state.weights, state.hparams, batch)

    state, (final, _), info = advance(plan, state, jax.vmap(start)(tasks, keys), tasks, keys, mean)
    return state, final, info


def advance(plan: Plan, state, starts, tasks, keys, mean, first=0):
    """T inner steps from wherever each task is, λ moving inside.

    Args:
      starts: (weights, estimator's state) of each task, stacked.
      first: the number of inner steps done before, from which the draws are numbered.

    Returns:
      (state with λ and its optimizer moved, `starts` T steps on, info).
    """
    estimator, problem = plan.estimator, plan.problem
    if estimator.fit is not None:
        theta = jax.vmap(lambda _: state.theta)(keys)
        starts = starts[0], starts[1]._replace(theta=theta)

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

        def one_step(weights, task, key):
            batch, outer_batch, key = draw(plan, key, task, t)
            current = problem.update(weights, hparams, batch)
            return Transition(weights, current, None, batch, outer_batch), key

        transition_of, step_keys = jax.vmap(one_step)(weights, tasks, keys)
        if plan.moves.all():
            return move(carry, transition_of, step_keys)
        return jax.lax.cond(moves, move, stay, carry, transition_of, step_keys)

    carry = starts, state.hparams, state.hyper_state
    steps = (first + jnp.arange(plan.horizon), jnp.asarray(plan.moves))
    (ends, hparams, hyper_state), seen = jax.lax.scan(body, carry, steps)
    loss, first, second = seen
    products = jnp.max(ends[1].products - starts[1].products)
    info = LearnerInfo(loss, state.theta, products, first, second)
    return state._replace(hparams=hparams, hyper_state=hyper_state), ends, info


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


def outer_losses(problem, transition_of, hparams):
    """L_val of each task; the compiler shares the forward pass with the gradient's."""
    return jax.vmap(problem.outer_loss, (0, None, 0))(
        transition_of.current, hparams, transition_of.outer_batch
    )


def theta_before(estimator):
    """θ before any fit: 1 where nothing is fitted."""
    fit = estimator.fit if isinstance(estimator, Estimator) else None
    initial = fit.initial if fit else 1.0
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), initial)


def fit_theta(plan, state, tasks, keys, mean):
    """(θ, products spent on it): refitted where it is due, over all tasks together."""
    fit = plan.estimator.fit if isinstance(plan.estimator, Estimator) else None
    if fit is None:
        return state.theta, 0
    due = plan.refits(state.done + 1)

    def measure(task, key):
        key = jax.random.fold_in(key, plan.horizon)
        batch_at = redraw(plan, key, task)
        outer_key, mix_key = jax.random.split(jax.random.fold_in(key, plan.horizon))
        outer_batch = plan.sample_outer(outer_key, task)
        return fit.measure(
            state.hparams, state.weights, batch_at, plan.horizon, outer_batch, mix_key
        )

    nothing = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(jax.vmap(measure), tasks, keys)
    )
    found = jax.lax.cond(due, lambda: jax.vmap(measure)(tasks, keys), lambda: nothing)
    theta = jax.tree.map(
        lambda new, old: jnp.where(due, new, old).astype(old.dtype),
        fit.solve(mean(found)),
        state.theta,
    )
    return theta, due * fit.products(plan.horizon)
