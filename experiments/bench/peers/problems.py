"""The problems that all sides solve: their arrays. sides/*_model.py say what is done with them."""

import numpy as np

# Inner steps, learning rate and momentum of the inner optimisation; λ's rate online.
SETTINGS = {
    "sinusoid": {"horizon": 30, "rate": 0.01, "momentum": 0.9, "hyper_rate": 1e-3},
    "conv": {"horizon": 10, "rate": 0.05, "momentum": 0.9, "hyper_rate": 1e-3},
    "logistic": {"horizon": 300, "rate": 1.0, "momentum": 0.0, "hyper_rate": 1e-3},
}


def make_problem(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of a problem, float32: λ and w_0, leaf by leaf, and the tasks' points.

    Returns:
      lam_0, lam_1, ...; w_0, w_1, ..., the same for each task; inner_x, inner_y, outer_x, outer_y,
      with the tasks in front. A task has the same points at every inner step.
    """
    rng = np.random.default_rng(seed)
    lam, w, points = {"sinusoid": _sinusoid, "conv": _conv, "logistic": _logistic}[name](rng)
    arrays = {f"lam_{i}": x for i, x in enumerate(lam)} | {f"w_{i}": x for i, x in enumerate(w)}
    arrays |= dict(zip(("inner_x", "inner_y", "outer_x", "outer_y"), points))
    return {
        k: np.asarray(x, np.int32 if x.dtype.kind == "i" else np.float32) for k, x in arrays.items()
    }


def _dense(rng, inputs: int, outputs: int) -> list[np.ndarray]:
    bound = inputs**-0.5
    return [rng.uniform(-bound, bound, shape) for shape in ((inputs, outputs), (outputs,))]


def _sinusoid(rng):
    """Appendix G of Lee et al. 2022: ten curves of ten points; λ is 3 hidden layers, w the last."""
    lam = [x for inputs in (1, 100, 100) for x in _dense(rng, inputs, 100)]
    amplitude = rng.uniform(0.1, 5, (10, 1, 1))
    phase = rng.uniform(0, np.pi, (10, 1, 1))
    inner_x, outer_x = rng.uniform(-5, 5, (2, 10, 10, 1))
    inner_y, outer_y = (amplitude * np.sin(x - phase) for x in (inner_x, outer_x))
    return lam, _dense(rng, 100, 1), (inner_x, inner_y, outer_x, outer_y)


def _conv(rng, tasks: int = 4, batch: int = 16, size: int = 16, channels: int = 16):
    """A small WarpGrad: λ is a linear convolution after each of the two of w."""

    def kernel(inputs):
        return rng.normal(0, (2 / (9 * inputs)) ** 0.5, (3, 3, inputs, channels))

    lam = [kernel(channels), kernel(channels)]
    w = [kernel(3), kernel(channels), *_dense(rng, (size // 4) ** 2 * channels, 10)]
    x = rng.normal(size=(2, tasks, batch, size, size, 3))
    y = rng.integers(0, 10, (2, tasks, batch))
    return lam, w, (x[0], y[0], x[1], y[1])


def _logistic(rng, points: int = 200, features: int = 100):
    """Logistic regression; λ is the logarithm of a weight decay for each feature."""
    x = rng.normal(size=(2, 1, points, features))
    y = np.sign(x[..., :10].sum(-1) + rng.normal(size=(2, 1, points)))
    lam, w = [np.full(features, -3.0)], [np.zeros(features)]
    return lam, w, (x[0], y[0], x[1], y[1])
