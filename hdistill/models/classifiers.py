"""The image models of Section 5: ANIL, WarpGrad and MetaWeightNet.

Each has `init(key, images) -> (hparams, params)`, which says what is λ and what is w, and two
losses of (params, hparams, batch) with batch = (images, labels): float32 [B, H, W, 3] and int32
[B]. `logits(params, hparams, images)` is [B, ways].
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from hdistill.checks import check_count
from hdistill.models.layers import BatchNorm, Conv, ConvBlock, flatten


class _Blocks(nn.Module):
    """Convolutional blocks, one after the other."""

    count: int
    channels: int

    @nn.compact
    def __call__(self, x):
        for _ in range(self.count):
            x = ConvBlock(self.channels)(x)
        return x


class _BlocksAndLinear(nn.Module):
    """Convolutional blocks and a linear layer on what is left of the image."""

    count: int
    channels: int
    ways: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.ways)(flatten(_Blocks(self.count, self.channels)(x)))


class _Warp(nn.Module):
    """Two 3x3 warp layers, each with batch normalisation, around which the input is carried."""

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        warped = nn.relu(BatchNorm()(Conv(channels)(x)))
        return nn.relu(x + BatchNorm()(Conv(channels)(warped)))


class _Classifier:
    """What the three share: cross entropy as both losses, and accuracy."""

    def __init__(self, ways: int, channels: int):
        raise NotImplementedError

    def init(self, key, images):
        raise NotImplementedError

    def logits(self, params, hparams, images):
        raise NotImplementedError

    def inner_loss(self, params, hparams, batch):
        """Mean cross entropy."""
        return _cross_entropy(self.logits(params, hparams, batch[0]), batch[1]).mean()

    def outer_loss(self, params, hparams, batch):
        """Mean cross entropy."""
        return _cross_entropy(self.logits(params, hparams, batch[0]), batch[1]).mean()

    def accuracy(self, params, hparams, batch):
        """Share of the batch whose largest logit is the label's, floating []."""
        images, labels = batch
        return jnp.mean(self.logits(params, hparams, images).argmax(-1) == labels)


class Anil(_Classifier):
    """Four convolutional blocks and a linear layer.

    λ: the three bottom blocks. w: the fourth block and the linear layer.
    """

    def __init__(self, ways: int = 10, channels: int = 32):
        check_count("ways", ways)
        check_count("channels", channels)
        self.features = _Blocks(3, channels)
        self.head = _BlocksAndLinear(1, channels, ways)

    def init(self, key, images):
        """(λ, w) for images like these."""
        features_key, head_key = jax.random.split(key)
        hparams = self.features.init(features_key, images)
        return hparams, self.head.init(head_key, self.features.apply(hparams, images))

    def logits(self, params, hparams, images):
        """[B, ways]."""
        return self.head.apply(params, self.features.apply(hparams, images))


class WarpGrad(_Classifier):
    """Three convolutional blocks, after each two warp layers, and a linear layer.

    λ: the warp layers. w: the blocks and the linear layer.

    The paper says how many warp layers there are and not how they are wired; here the two sit in a
    residual connection after the block's pooling.
    """

    def __init__(self, ways: int = 10, channels: int = 32):
        check_count("ways", ways)
        check_count("channels", channels)
        self.blocks = [ConvBlock(channels) for _ in range(3)]
        self.warps = [_Warp() for _ in range(3)]
        self.linear = nn.Dense(ways)

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


class MetaWeightNet(_Classifier):
    """Three convolutional blocks and a linear layer, whose training examples are weighted.

    λ: the weighting network, 1-200-1 with ReLU and sigmoid, from an example's loss to its weight in
    [0.1, 1]. w: the classifier, whole. The outer loss does not see λ, so that g^FO is zero.
    """

    LEAST = 0.1

    def __init__(self, ways: int = 10, channels: int = 32):
        check_count("ways", ways)
        check_count("channels", channels)
        self.classifier = _BlocksAndLinear(3, channels, ways)
        self.weighting = nn.Sequential([nn.Dense(200), nn.relu, nn.Dense(1), nn.sigmoid])

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
        gradient does not, since Φ as a function of w has weights that change with the losses.
        """
        losses = _cross_entropy(self.logits(params, hparams, batch[0]), batch[1])
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


def _cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
