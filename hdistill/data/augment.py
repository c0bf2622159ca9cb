"""Images made smaller once; batches drawn, cropped and flipped inside a compiled step."""

import jax
import jax.numpy as jnp
import numpy as np

from hdistill.checks.values import check_count, describe
from hdistill.data.pool import Examples


def shrink(pixels: np.ndarray, size: int) -> np.ndarray:
    """Images of a whole fraction of their height and width, each pixel the mean of a square.

    Examples:
      >>> from hdistill.data.augment import shrink
      >>> shrink(np.zeros((10, 32, 32, 3), np.uint8), 16).shape
      (10, 16, 16, 3)

    Args:
      pixels: uint8 [..., H, H, 3].
      size: the new height, a divisor of H.
    """
    height, width = pixels.shape[-3:-1]
    if size < 1 or height % size or width != height:
        raise ValueError(
            f"size={size}: expected a divisor of the images' height and width, {height} and {width}"
        )
    if height == size:
        return pixels
    step = height // size
    squares = pixels.reshape(*pixels.shape[:-3], size, step, size, step, 3)
    return np.rint(squares.mean(axis=(-4, -2), dtype=np.float32)).astype(np.uint8)


def normalize(images):
    """uint8 [0, 255] to float32 [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def crop_and_flip(key, images, pad: int = 4):
    """Each image shifted by up to `pad` pixels, black beyond the edge, mirrored half the time.

    Examples:
      >>> from hdistill.data.augment import crop_and_flip
      >>> crop_and_flip(jax.random.key(0), jnp.zeros((2, 32, 32, 3)), pad=4).shape
      (2, 32, 32, 3)

    Args:
      key: PRNG key.
      images: uint8 [B, H, W, 3].
      pad: largest shift in either direction.

    Returns:
      uint8 [B, H, W, 3].
    """
    size, height, width, channels = images.shape
    shift_key, flip_key = jax.random.split(key)
    shifts = jax.random.randint(shift_key, (size, 2), 0, 2 * pad + 1)
    flips = jax.random.bernoulli(flip_key, shape=(size,))
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def one(image, shift, flip):
        crop = jax.lax.dynamic_slice(image, (*shift, 0), (height, width, channels))
        return jnp.where(flip, crop[:, ::-1], crop)

    return jax.vmap(one)(padded, shifts, flips)


def draw_batch(key, examples: Examples, size: int, pad: int | None = 4):
    """A batch for a loss: `size` examples drawn with replacement, augmented, normalised.

    Examples:
      >>> from hdistill.data.augment import draw_batch
      >>> from hdistill.data.pool import Examples
      >>> examples = Examples(jnp.zeros((50, 32, 32, 3), jnp.uint8), jnp.zeros(50, jnp.int32))
      >>> images, labels = draw_batch(jax.random.key(0), examples, size=8)
      >>> images.shape, labels.shape
      ((8, 32, 32, 3), (8,))

    Args:
      key: PRNG key.
      examples: a task's half.
      size: B.
      pad: largest shift of the crop, pixels; None neither crops nor flips.

    Returns:
      (images, labels): float32 [B, H, W, 3] in [-1, 1] and int32 [B].

    Raises:
      ValueError: a size below 1.
    """
    size, (images, labels) = check_count("size", size), examples
    if len(images) != len(labels) or not jnp.issubdtype(images.dtype, jnp.integer):
        raise ValueError(
            f"examples: images {describe(images)} and labels {describe(labels)}; expected integers "
            "[N, H, W, 3] from 0 to 255, and a label for each"
        )
    index_key, augment_key = jax.random.split(key)
    index = jax.random.randint(index_key, (size,), 0, examples.labels.shape[0])
    images = examples.images[index]
    images = images if pad is None else crop_and_flip(augment_key, images, pad)
    return normalize(images), examples.labels[index]
