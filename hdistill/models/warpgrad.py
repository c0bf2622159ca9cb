"""WarpGrad (Flennerhag et al. 2020): layers between those of the network are hyperparameters."""

import functools

import flax.linen as nn
import jax

from hdistill.models.classifier import Classifier
from hdistill.models.layers import BatchNorm, Conv, ConvBlock, flatten


class _Warp(nn.Module):
    """Two 3x3 warp layers, each with batch normalisation, around which the input is carried."""

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        warped = nn.relu(BatchNorm()(Conv(channels)(x)))
        return nn.relu(x + BatchNorm()(Conv(channels)(warped)))


class WarpGrad(Classifier):
    """Three convolutional blocks, after each two warp layers, and a linear layer.

    λ: the warp layers. w: the blocks and the linear layer.

    The paper says how many warp layers there are and not how they are wired; here the two sit in a
    residual connection after the block's pooling.

    Examples:
      >>> from hdistill.models.warpgrad import WarpGrad
      >>> model = WarpGrad(ways=10, channels=4)
      >>> hparams, params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
      >>> problem = hd.from_losses(model.inner_loss, model.outer_loss, optax.sgd(0.01))
    """

    def __init__(self, ways: int = 10, channels: int = 32):
        super().__init__(ways, channels)
        self.blocks = [ConvBlock(channels) for _ in range(3)]
        self.warps = [_Warp() for _ in range(3)]
        self.linear = nn.Dense(ways)

    @functools.partial(jax.jit, static_argnums=0)  # one program, not one for each layer's parts
    def init(self, key, images):
        """(λ, w) for images like these."""
        keys = jax.random.split(key, 7)
        hparams, params, x = [], [], images
        for block, warp, block_key, warp_key in zip(self.blocks, self.warps, keys[:3], keys[3:6]):
            params.append(block.init(block_key, x))
            x = block.apply(params[-1], x)
            hparams.append(warp.init(warp_key, x))
            x = warp.apply(hparams[-1], x)
        return hparams, {"blocks": params, "linear": self.linear.init(keys[6], flatten(x))}

    def logits(self, params, hparams, images):
        """[B, ways]."""
        x = images
        for block, warp, w, h in zip(self.blocks, self.warps, params["blocks"], hparams):
            x = warp.apply(h, block.apply(w, x))
        return self.linear.apply(params["linear"], flatten(x))
