"""jaxopt: gradient descent to the optimum, its implicit gradient by conjugate gradients."""

import jax
import jaxopt
from jax_model import losses
from serve import leaves_of, serve


def make(problem, method, settings, arrays):
    """The hypergradient of the one task."""
    inner_loss, outer_loss = losses(problem)
    lam, w = leaves_of(arrays, "lam"), leaves_of(arrays, "w")
    inner, outer = ((arrays[f"{p}_x"][0], arrays[f"{p}_y"][0]) for p in ("inner", "outer"))
    solver = jaxopt.GradientDescent(
        inner_loss,
        stepsize=settings["rate"],
        maxiter=settings["horizon"],
        tol=0.0,
        acceleration=False,
        implicit_diff=True,
    )

    def validation(lam):
        return outer_loss(solver.run(w, lam, inner).params, lam, outer)

    gradient = jax.jit(jax.grad(validation))
    return lambda: gradient(lam)


serve(make)
