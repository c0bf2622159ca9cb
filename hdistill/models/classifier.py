"""The common part of the image models of Section 5.

Each has `init(key, images) -> (hparams, params)`, which says what is λ and what is w, and two
losses of (params, hparams, batch) with batch = (images, labels): float32 [B, H, W, 3] and int32
[B]. `logits(params, hparams, images)` is [B, ways].
"""

import jax.numpy as jnp
import optax

from hdistill.checks.values import check_count

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


class Classifier:
    """Cross entropy as both losses, and accuracy."""

    def __init__(self, ways: int, channels: int):
        check_count("ways", ways)
        check_count("channels", channels)

    def init(self, key, images):
        raise NotImplementedError

    def logits(self, params, hparams, images):
        raise NotImplementedError

    def inner_loss(self, params, hparams, batch):
        """Mean cross entropy."""
        return cross_entropy(self.logits(params, hparams, batch[0]), batch[1]).mean()

    def outer_loss(self, params, hparams, batch):
        """Mean cross entropy."""
        return cross_entropy(self.logits(params, hparams, batch[0]), batch[1]).mean()

    def accuracy(self, params, hparams, batch):
        """Share of the batch whose largest logit is the label's, floating []."""
        images, labels = batch
        return jnp.mean(self.logits(params, hparams, images).argmax(-1) == labels)
