"""Parts of the studies of images: generated images, and a learnt weighting as a curve."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np

WAYS = 10


def generated(size: int, seed: int, classes: int = 12, per_class: int = 20) -> jnp.ndarray:
    """A random colour and pattern for each class, and noise, uint8 [classes, each, H, W, 3]."""
    rng = np.random.default_rng(seed)
    patterns = rng.uniform(40, 215, (classes, 1, size, size, 3))
    noise = rng.normal(0, 20, (classes, per_class, size, size, 3))
    return jnp.asarray(np.clip(patterns + noise, 0, 255).astype(np.uint8))


def digest(arrays) -> str:
    """A short checksum of a tree of arrays, to tell one data set from another."""
    summed = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(arrays)):
        summed.update(f"{leaf.dtype} {leaf.shape}".encode())
        summed.update(leaf.tobytes())
    return summed.hexdigest()[:16]


def weighting(model, before, after) -> dict[str, list[float]]:
    """MetaWeightNet's weight of an example by its loss, before and after learning (Figure 7)."""
    losses = jnp.linspace(0.0, 10.0, 101)
    curves = {"losses": losses, "before": model.weights(before, losses)}
    curves["after"] = model.weights(after, losses)
    return {name: curve.tolist() for name, curve in curves.items()}
