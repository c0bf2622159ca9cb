"""The pullbacks of the outer loss at (w, λ), and of Φ or its surrogate at (w, λ).

With A = ∂Φ/∂w and B = ∂Φ/∂λ, the products that the paper calls JVPs are vector-Jacobian products:
a cotangent α of the weights times A or B. α is a list, one array for each floating-point leaf of
the weights, because integer leaves (Adam's step counter) take no derivative. Where the problem has
a surrogate, A and B are the surrogate's.
"""

import jax

from hdistill.tree import split


def outer_pullback(problem, weights, hparams, batch):
    """The outer loss and its two gradients, in one reverse pass.

    Returns:
      (L_val, α, g^FO): the scalar loss, α = ∂L_val/∂w as a list of the weights' floating-point
      leaves, and g^FO = ∂L_val/∂λ of the structure of `hparams`.
    """
    real, merge = split(weights)
    loss, (alpha, first_order) = jax.value_and_grad(
        lambda r, h: problem.outer_loss(merge(r), h, batch), argnums=(0, 1)
    )(real, hparams)
    return loss, alpha, first_order


def differentiable(problem, weights, batch):
    """The map whose Jacobians are A and B, on the weights' floating-point leaves.

    Returns:
      (phi, point): `phi(real, hparams)` with its result as such a list too, and the list at which
      to take its derivatives.
    """
    real, merge = split(weights)

    def phi(real, hparams):
        return split(problem.differentiated(merge(real), hparams, batch))[0]

    return phi, real


def inner_pullback(problem, weights, hparams, batch, alpha):
    """(αA, αB) at (w, λ; D): both Jacobian products from one `jax.vjp`.

    Args:
      alpha: cotangent of Φ(w, λ; D), a list as `outer_pullback` returns it.

    Returns:
      αA, a list like `alpha`, and αB, of the structure of `hparams`.
    """
    phi, real = differentiable(problem, weights, batch)
    _, vjp = jax.vjp(phi, real, hparams)
    return vjp(alpha)


def hparams_pullback(problem, weights, hparams, batch, alpha):
    """αB only: Φ is not linearised in w, which would double the work."""
    phi, real = differentiable(problem, weights, batch)
    _, vjp = jax.vjp(lambda h: phi(real, h), hparams)
    return vjp(alpha)[0]
