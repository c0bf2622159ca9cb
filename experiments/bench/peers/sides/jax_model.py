"""The problems in JAX, of one task: the loss that is trained on and the loss that λ is for."""

import jax
import jax.numpy as jnp


def lax_conv(x, kernel):
    """3x3, zero padding, as JAX has it."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def losses(problem: str, conv=lax_conv):
    """(inner loss, outer loss) of (w, λ, (x, y))."""

    def regression(w, lam, batch):
        x, y = batch
        for kernel, bias in zip(lam[::2], lam[1::2]):
            x = jax.nn.relu(x @ kernel + bias)
        return jnp.mean((x @ w[0] + w[1] - y) ** 2)

    def classification(w, lam, batch):
        x, y = batch
        for kernel, warp in zip(w, lam):
            x = pool(conv(jax.nn.relu(conv(x, kernel)), warp))
        logits = x.reshape(len(x), -1) @ w[2] + w[3]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()

    def logistic(w, lam, batch):
        x, y = batch
        return jax.nn.softplus(-y * (x @ w[0])).mean()

    def decayed(w, lam, batch):
        return logistic(w, lam, batch) + 0.5 * jnp.sum(jnp.exp(lam[0]) * w[0] ** 2)

    return {
        "sinusoid": (regression, regression),
        "conv": (classification, classification),
        "logistic": (decayed, logistic),
    }[problem]


def pool(x):
    """2x2 means, of ReLUs."""
    n, height, width, channels = x.shape
    return jax.nn.relu(x).reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))
