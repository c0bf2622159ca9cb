"""gradhpo's HyperDistill: ten inner optimisations of one task."""

import jax
import jax.numpy as jnp
import optax
from gradhpo.algorithms.online import OnlineHypergradientOptimizer
from jax_model import losses
from serve import leaves_of, serve


def make(problem, method, settings, arrays):
    """λ after ten inner optimisations, with momentum in the weights that Φ maps."""
    inner_loss, outer_loss = losses(problem)
    rate, momentum = settings["rate"], settings["momentum"]
    lam, w = leaves_of(arrays, "lam"), leaves_of(arrays, "w")
    weights = w, [jnp.zeros_like(x) for x in w]
    inner, outer = ((arrays[f"{p}_x"][0], arrays[f"{p}_y"][0]) for p in ("inner", "outer"))

    def update(weights, lam, batch):
        w, trace = weights
        gradient = jax.grad(inner_loss)(w, lam, batch)
        trace = jax.tree.map(lambda t, g: momentum * t + g, trace, gradient)
        return jax.tree.map(lambda x, t: x - rate * t, w, trace), trace

    def train_loss(weights, lam, batch):
        return inner_loss(weights[0], lam, batch)

    def val_loss(weights, lam, batch):
        return outer_loss(weights[0], lam, batch)

    # With lr_hyper in place of an optimizer it compiles again for every inner optimisation.
    optimizer = OnlineHypergradientOptimizer(
        outer_optimizer=optax.sgd(settings["hyper_rate"]),
        gamma=0.9,
        estimation_period=50,
        T=settings["horizon"],
        update_fn=update,
    )
    state = optimizer.init(weights, lam)

    def call():
        data = lambda: inner, lambda: outer
        after = optimizer.run(state, 10, *data, train_loss, val_loss, lr_reptile=0.0)
        return after.hyperparams

    return call


serve(make)
