"""Layers that stay fast inside `lax.scan` and under `vmap` over tasks."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from hdistill.models.conv import conv3x3


@jax.named_scope("max_pool2x2")
def max_pool2x2(x):
    """2x2 max pooling, stride 2; an odd last row or column is dropped. [B, H, W, C].

    Of equal entries one has the gradient: the upper of a column, the left of the two columns. JAX's
    own rule for a maximum compares each entry with the result; compiled, a program of ANIL lost the
    gradient of some windows so, most likely by another rounding of entries that XLA computed again
    (jax 0.10.2, CPU).

    Raises:
      ValueError: H or W below 2: the images are too small for so many layers.
    """
    batch, height, width, channels = x.shape
    if height < 2 or width < 2:
        raise ValueError(f"x has shape {x.shape}: expected at least 2x2 pixels; larger images")
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    x = _larger(x[:, :, 0], x[:, :, 1])
    return _larger(x[:, :, :, 0], x[:, :, :, 1])


def _larger(a, b):
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


class Conv(nn.Module):
    """A 3x3 convolution, [B, H, W, C] -> [B, H, W, channels].

    It has no bias: batch normalisation follows, which would take it away again.
    """

    channels: int

    @nn.compact
    def __call__(self, x):
        shape = (3, 3, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        return conv3x3(x, kernel)


def _mean(x):
    """Of each channel, [1, ..., 1, C]."""
    return x.mean(tuple(range(x.ndim - 1)), keepdims=True)


@jax.custom_jvp
def _statistics(x):
    """Each channel's mean, and one over its standard deviation."""
    mean = _mean(x)
    return mean, jax.lax.rsqrt(_mean(jnp.square(x - mean)) + 1e-5)


@_statistics.defjvp
def _statistics_jvp(primals, tangents):
    # d(1/σ) = -cov(x, dx) / σ³, by hand: JAX's own rule keeps x - mean, and the normalisation takes
    # 1.2 to 1.4 times as long (RESULTS.md, bench/images).
    (x,), (tangent,) = primals, tangents
    mean, inverse = _statistics(x)
    mean_tangent = _mean(tangent)
    covariance = _mean(x * tangent) - mean * mean_tangent
    return (mean, inverse), (mean_tangent, -(inverse**3) * covariance)


class BatchNorm(nn.Module):
    """Normalisation by the batch's own mean and variance, at test time too, as in MAML.

    There are no running averages, so that Φ has no hidden state. Scale and bias are learnt.

    Attributes:
      pool: whether 2x2 max pooling follows. It is done first: the largest outputs are those of the
        largest inputs, or of the smallest where the scale is negative, and only a quarter of them
        is then normalised. Where a scale is 0 its gradient is that of the largest.
    """

    pool: bool = False

    @nn.compact
    def __call__(self, x):
        shape = (1,) * (x.ndim - 1) + x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32).reshape(shape)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32).reshape(shape)
        mean, inverse = _statistics(x)
        slope = inverse * scale
        offset = bias - mean * slope
        if self.pool:
            sign = jnp.where(scale < 0, -1.0, 1.0)
            x, slope = max_pool2x2(sign * x), sign * slope
        return x * slope + offset


class ConvBlock(nn.Module):
    """Conv, batch normalisation, 2x2 max pooling, ReLU: half the height and width."""

    channels: int

    @nn.compact
    def __call__(self, x):
        return nn.relu(BatchNorm(pool=True)(Conv(self.channels)(x)))


def flatten(x):
    """[B, ...] -> [B, features]."""
    return x.reshape(x.shape[0], -1)


class Blocks(nn.Module):
    """Convolutional blocks, one after the other."""

    count: int
    channels: int

    @nn.compact
    def __call__(self, x):
        for _ in range(self.count):
            x = ConvBlock(self.channels)(x)
        return x


class BlocksAndLinear(nn.Module):
    """Convolutional blocks and a linear layer on what is left of the image."""

    count: int
    channels: int
    ways: int

    @nn.compact
    def __call__(self, x):
        # The name decides the first weights of a seed: as it was when the results were made.
        blocks = Blocks(self.count, self.channels, name="_Blocks_0")
        return nn.Dense(self.ways)(flatten(blocks(x)))
