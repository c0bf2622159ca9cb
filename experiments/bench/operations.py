"""Operations of the matrix products and convolutions in a traced program."""

import jax
import jax.extend
import numpy as np

from hdistill.models.conv import convolution_p, kernel_gradient_p


def operations(function, arguments, fitted: float = 1.0, moved: float = 1.0) -> float:
    """Of all products and convolutions of the function, multiplication and addition as two.

    Args:
      fitted: share of the calls in which a branch outside the loops, a fit, is taken.
      moved: share of the steps in which a branch inside a loop, a move of λ, is taken.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr, fitted, moved)


def _of_jaxpr(jaxpr, taken: float, moved: float) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        inner = list(jax.extend.core.jaxprs_in_params(parameters))
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            left = equation.invars[0].aval.shape
            depth = np.prod([left[i] for i in contracted])
            total += 2 * depth * np.prod(equation.outvars[0].aval.shape)
        elif equation.primitive in (convolution_p, kernel_gradient_p):
            images, other = (v.aval.shape for v in equation.invars)
            total += 2 * 9 * np.prod(images) * other[-1]
        elif name == "scan":
            total += parameters["length"] * sum(_of_jaxpr(each, moved, moved) for each in inner)
        elif name == "cond":  # the branch not taken comes first
            if len(inner) != 2:
                raise ValueError(f"a choice of {len(inner)} branches: expected two")
            shares = (1 - taken, taken)
            total += sum(s * _of_jaxpr(each, taken, moved) for s, each in zip(shares, inner))
        else:
            total += sum(_of_jaxpr(each, taken, moved) for each in inner)
    return total
