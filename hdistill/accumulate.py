"""Micro-batches: a loss whose derivatives take the memory of a part of the batch."""

import jax
import jax.numpy as jnp

from hdistill.checks.values import check_calls, check_count, leading_axis


def accumulate(loss, parts: int):
    """Makes the same loss, computed as the mean over `parts` equal parts of its batch.

    Its gradient, and the products of a Φ built on it, take about the memory of one part beside the
    weights, and run the loss once more: each part is computed again where it is differentiated
    (`jax.checkpoint`).

    Warning: it equals the whole batch's loss if that is a mean over its examples (terms without
    examples, as a weight decay, are unchanged). A mean weighted within the batch, or batch
    normalisation, is another loss.

    Examples:
      >>> several = hd.accumulate(inner_loss, 4)
      >>> whole = inner_loss(params, hparams, outer_batch)
      >>> bool(jnp.allclose(several(params, hparams, outer_batch), whole))
      True

    Args:
      loss: `(params, hparams, batch) -> scalar`, a mean over the examples of the batch, whose
        leaves have a leading axis [B, ...].
      parts: how many; they must divide B.

    Returns:
      A function like `loss`, for `hd.from_losses`.

    Raises:
      ValueError: parts < 1; when called, batches without a common leading axis, or of a length that
        `parts` does not divide.
    """
    check_calls("loss", loss, "(params, hparams, batch)")
    parts = check_count("parts", parts)

    def accumulated(params, hparams, batch):
        examples = leading_axis(batch, "batch")
        if examples % parts:
            raise ValueError(
                f"parts={parts}: expected a divisor of the batch's {examples} examples"
            )
        size = examples // parts
        cut = jax.tree.map(lambda x: jnp.reshape(x, (parts, size, *jnp.shape(x)[1:])), batch)

        @jax.checkpoint
        def one(part):
            return loss(params, hparams, part)

        def add(total, part):
            return total + one(part), None

        zero = jax.eval_shape(one, jax.tree.map(lambda x: x[0], cut))
        total, _ = jax.lax.scan(add, jnp.zeros(zero.shape, zero.dtype), cut)
        return total / parts

    return accumulated
