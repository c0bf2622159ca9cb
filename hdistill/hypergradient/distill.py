"""The distilled point: w* (Eq. 13) and D* (Eq. 14), the latter in Algorithm 4 too."""

import jax
import jax.numpy as jnp

from hdistill.checks.values import check_choice, leading_axis
from hdistill.tree import mix


def mix_weights(gamma: float, decay_sum, old, new):
    """One step of Eq. 13.

        S_t = 1 + γ S_{t-1},  p_t = γ S_{t-1} / S_t
        w*_t = p_t w*_{t-1} + (1 - p_t) w_{t-1}

    Args:
      gamma: γ.
      decay_sum: S_{t-1}, floating [].
      old: w*_{t-1}, half precision as float32.
      new: w_{t-1}; w* has its integer leaves (step counters).

    Returns:
      (w*_t, p_t, S_t).
    """
    total = 1 + gamma * decay_sum
    share = gamma * decay_sum / total
    return mix(share, old, new, latest=new), share, total


def mix_weights_back(gamma: float, decay_sum, old, new):
    """One step of Eq. 17, along DrMAD's line from its end.

        S_s = 1 + γ S_{s-1},  p_s = S_{s-1} / S_s
        w*_s = p_s w*_{s-1} + (1 - p_s) ŵ_{T-s}

    Returns:
      (w*_s, p_s, S_s), with w*'s integer leaves those of w*_{s-1}.
    """
    total = 1 + gamma * decay_sum
    share = decay_sum / total
    return mix(share, old, new, latest=old), share, total


def check_batch(batch):
    """D*_0: any batch of the right shapes, because p_1 = 0 and none of it is ever taken.

    Raises:
      ValueError: leaves that do not share a leading axis, so that there are no examples to mix.
        (A single key in a batch has no examples: make it one key for each.)
    """
    if jax.tree.leaves(batch):
        leading_axis(batch, "batch")
    return batch


def check_mixing(mixing: str) -> str:
    """The way D* is drawn, static; see `mix_batches`."""
    check_choice("mixing", mixing, ("aligned", "apart"))
    return mixing


def mix_batches(key, share, old, new, mixing: str = "aligned"):
    """A batch of B examples, on average share·B of them from `old` and the others from `new`.

    A set of ⌊share·B + u⌋ places is drawn, u ~ U(0, 1); those take an example of `old`, the others
    keep the one that `new` has there. At share = 0 the result is `new` exactly.

    - "aligned": a place takes the example that `old` has in the same place. Where both hold the
      same examples in the same order (full-batch inner steps) the result is that batch again.
    - "apart": the places take a random subset of `old`, drawn apart, as Eq. 14 has it. Where both
      hold the same examples some come twice and some not at all.

    Warning: this departs from the paper, which rounds share·B: rounded, a share below 1/(2B) is
    nothing, and the last batches would never enter once t > 2B at γ = 1; drawn, every past batch
    has the expected share that Eq. 14 gives it.

    Args:
      key: PRNG key.
      share: p in [0, 1], a floating scalar.
      old: D*_{t-1}, each leaf [B, ...].
      new: D_t, of the same structure and shapes.
      mixing: "aligned" or "apart".

    Returns:
      D*_t, of the structure and shapes of `new`.
    """
    leaves = jax.tree.leaves(new)
    if not leaves:
        return new
    size = leaves[0].shape[0]
    place_key, count_key = jax.random.split(key)
    if mixing == "apart":
        place_key, shuffle_key = jax.random.split(place_key)
        shuffled = jax.random.permutation(shuffle_key, size)
        old = jax.tree.map(lambda x: x[shuffled], old)
    count = jnp.floor(share * size + jax.random.uniform(count_key, dtype=share.dtype))
    order = jax.random.permutation(place_key, size)
    from_old = order < count.astype(order.dtype)

    def choose(a, b):
        return jnp.where(from_old.reshape(-1, *[1] * (b.ndim - 1)), a, b)

    return jax.tree.map(choose, old, new)
