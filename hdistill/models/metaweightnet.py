"""MetaWeightNet (Shu et al. 2019): a network that weights the examples is hyperparameters."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from hdistill.models.classifier import Classifier, cross_entropy
from hdistill.models.layers import BlocksAndLinear


class MetaWeightNet(Classifier):
    """Three convolutional blocks and a linear layer, whose training examples are weighted.

    λ: the weighting network, 1-200-1 with ReLU and sigmoid, from an example's loss to its weight in
    [0.1, 1]. w: the classifier, whole. The outer loss does not see λ, so that g^FO is zero.

    Examples:
      >>> from hdistill.models.metaweightnet import MetaWeightNet
      >>> model = MetaWeightNet(ways=10, channels=4)
      >>> hparams, params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
      >>> model.weights(hparams, jnp.array([0.0, 1.0, 2.0])).shape
      (3,)
    """

    LEAST = 0.1

    def __init__(self, ways: int = 10, channels: int = 32):
        super().__init__(ways, channels)
        self.classifier = BlocksAndLinear(3, channels, ways)
        self.weighting = nn.Sequential([nn.Dense(200), nn.relu, nn.Dense(1), nn.sigmoid])

    @functools.partial(jax.jit, static_argnums=0)  # one program, not one for each layer's parts
    def init(self, key, images):
        """(λ, w) for images like these."""
        weighting_key, classifier_key = jax.random.split(key)
        hparams = self.weighting.init(weighting_key, jnp.zeros((1, 1)))
        return hparams, self.classifier.init(classifier_key, images)

    def logits(self, params, hparams, images):
        """[B, ways]."""
        return self.classifier.apply(params, images)

    def weights(self, hparams, losses):
        """Weights in [0.1, 1] of examples with these losses, floating [B]."""
        share = self.weighting.apply(hparams, losses[:, None])[:, 0]
        return self.LEAST + (1 - self.LEAST) * share

    def inner_loss(self, params, hparams, batch):
        """Mean of weight times cross entropy.

        Its gradient in w takes the weights for constants (Shu et al. 2019). The derivative of that
        gradient does not, because Φ as a function of w has weights that change with the losses.
        """
        losses = cross_entropy(self.logits(params, hparams, batch[0]), batch[1])
        return _weighted(self.weights, hparams, losses).mean()


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _weighted(weights, hparams, losses):
    """Weight times loss, [B]. Its derivative in the losses is the weight.

    `lax.stop_gradient` on the weights would say the same once, and be wrong when differentiated
    again.
    """
    return weights(hparams, losses) * losses


@_weighted.defjvp
def _(weights, primals, tangents):
    hparams, losses = primals
    out, along_hparams = jax.jvp(lambda h: weights(h, losses) * losses, (hparams,), (tangents[0],))
    return out, along_hparams + weights(hparams, losses) * tangents[1]
