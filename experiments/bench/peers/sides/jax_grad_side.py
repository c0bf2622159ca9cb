"""jax.grad of the unroll, in a scan, tasks side by side: what one writes without a library."""

import jax
import jax.numpy as jnp
from jax_model import losses
from serve import leaves_of, serve


def make(problem, method, settings, arrays):
    """The mean hypergradient of the tasks."""
    inner_loss, outer_loss = losses(problem)
    rate, momentum = settings["rate"], settings["momentum"]
    lam, w = leaves_of(arrays, "lam"), leaves_of(arrays, "w")

    def validation(lam, inner, outer):
        def body(carry, _):
            w, trace = carry
            gradient = jax.grad(inner_loss)(w, lam, inner)
            trace = jax.tree.map(lambda t, g: momentum * t + g, trace, gradient)
            return (jax.tree.map(lambda x, t: x - rate * t, w, trace), trace), None

        start = w, jax.tree.map(jnp.zeros_like, w)
        (final, _), _ = jax.lax.scan(body, start, length=settings["horizon"])
        return outer_loss(final, lam, outer)

    def mean(lam, inner, outer):
        return jax.vmap(validation, (None, 0, 0))(lam, inner, outer).mean()

    tasks = [(arrays[f"{part}_x"], arrays[f"{part}_y"]) for part in ("inner", "outer")]
    gradient = jax.jit(jax.grad(mean))
    return lambda: gradient(lam, *tasks)


serve(make)
