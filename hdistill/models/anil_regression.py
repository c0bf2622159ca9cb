"""ANIL (Raghu et al. 2020) on curves: the lower layers are hyperparameters, the head is w."""

import functools
import math

import flax.linen as nn
import jax


def bounded_uniform(fan_in: int):
    """U(-1/√fan_in, 1/√fan_in), for kernels and biases alike: PyTorch's default linear layer."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Features(nn.Module):
    """ReLU layers of the given widths, [..., 1] -> [..., widths[-1]]: the hyperparameters λ."""

    widths: tuple[int, ...] = (100, 100, 100)

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            init = bounded_uniform(x.shape[-1])
            x = nn.relu(nn.Dense(width, kernel_init=init, bias_init=init)(x))
        return x


class Head(nn.Module):
    """A linear layer, [..., features] -> [..., 1]: the weights w."""

    @nn.compact
    def __call__(self, x):
        init = bounded_uniform(x.shape[-1])
        return nn.Dense(1, kernel_init=init, bias_init=init)(x)


class AnilRegression:
    """The 1-100-100-100-1 network of Appendix G: λ its three hidden layers, w its last.

    Examples:
      >>> from hdistill.models.anil_regression import AnilRegression
      >>> model = AnilRegression()
      >>> hparams, params = model.init(jax.random.key(0), jnp.zeros((1, 1)))
      >>> model.apply(params, hparams, jnp.zeros((5, 1))).shape
      (5, 1)
    """

    def __init__(self, widths: tuple[int, ...] = (100, 100, 100)):
        self.features, self.head = Features(widths), Head()

    @functools.partial(jax.jit, static_argnums=0)  # one program, not one for each layer's parts
    def init(self, key, x):
        """(λ, w) for inputs like x, floating [..., 1]."""
        features_key, head_key = jax.random.split(key)
        hparams = self.features.init(features_key, x)
        return hparams, self.head.init(head_key, self.features.apply(hparams, x))

    def apply(self, params, hparams, x):
        """The network's output, floating [..., 1]."""
        return self.head.apply(params, self.features.apply(hparams, x))
