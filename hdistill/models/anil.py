"""ANIL (Raghu et al. 2020) on images: the lower layers are hyperparameters, the upper are w."""

import functools

import jax

from hdistill.models.classifier import Classifier
from hdistill.models.layers import Blocks, BlocksAndLinear


class Anil(Classifier):
    """Four convolutional blocks and a linear layer.

    λ: the three bottom blocks. w: the fourth block and the linear layer.

    Examples:
      >>> from hdistill.models.anil import Anil
      >>> model = Anil(ways=10, channels=4)
      >>> hparams, params = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
      >>> jax.jit(model.logits)(params, hparams, jnp.zeros((2, 16, 16, 3))).shape
      (2, 10)
    """

    def __init__(self, ways: int = 10, channels: int = 32):
        super().__init__(ways, channels)
        self.features = Blocks(3, channels)
        self.head = BlocksAndLinear(1, channels, ways)

    @functools.partial(jax.jit, static_argnums=0)  # one program, not one for each layer's parts
    def init(self, key, images):
        """(λ, w) for images like these."""
        features_key, head_key = jax.random.split(key)
        hparams = self.features.init(features_key, images)
        return hparams, self.head.init(head_key, self.features.apply(hparams, images))

    def logits(self, params, hparams, images):
        """[B, ways]."""
        return self.head.apply(params, self.features.apply(hparams, images))
