"""Few-shot sinusoid regression (Finn et al. 2017; Appendix G of Lee et al. 2022)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hdistill.checks.values import check_count

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, jnp.pi)
RANGE = (-5.0, 5.0)


class Points(NamedTuple):
    """Points of sinusoids: x and y, floating [tasks, shots, 1] (or of one task, [shots, 1])."""

    x: jax.Array
    y: jax.Array


class Sinusoid(NamedTuple):
    """y = amplitude · sin(x - phase), for as many tasks as the leading axis says."""

    amplitude: jax.Array
    phase: jax.Array

    def at(self, x) -> Points:
        """The points at x, floating [tasks, shots, 1]."""
        amplitude, phase = self.amplitude[:, None, None], self.phase[:, None, None]
        return Points(x, amplitude * jnp.sin(x - phase))


def sample_curves(key, tasks: int) -> Sinusoid:
    """Amplitudes ~ U(0.1, 5) and phases ~ U(0, π), floating [tasks].

    Examples:
      >>> from hdistill.data.sinusoid import sample_curves
      >>> sample_curves(jax.random.key(0), 3).at(jnp.zeros((3, 5))).y.shape
      (3, 3, 5)
    """
    amplitude_key, phase_key = jax.random.split(key)
    return Sinusoid(
        jax.random.uniform(amplitude_key, (tasks,), minval=AMPLITUDE[0], maxval=AMPLITUDE[1]),
        jax.random.uniform(phase_key, (tasks,), minval=PHASE[0], maxval=PHASE[1]),
    )


def sample_tasks(
    key, tasks: int, shots: int = 10, outer_shots: int | None = None
) -> tuple[Points, Points]:
    """Draws sinusoids, and for each the points to train on and, apart, those to test on.

    Examples:
      >>> from hdistill.data.sinusoid import sample_tasks
      >>> inner, outer = sample_tasks(jax.random.key(0), 4)
      >>> inner.x.shape, outer.x.shape
      ((4, 10, 1), (4, 10, 1))

    Args:
      key: PRNG key.
      tasks: how many, the leading axis.
      shots: points to train on, x ~ U(-5, 5).
      outer_shots: points to test on, likewise; None for as many.

    Returns:
      (inner, outer): `Points` of floating [tasks, shots, 1] and [tasks, outer_shots, 1].

    Raises:
      ValueError: tasks, shots or outer_shots below 1.
    """
    tasks, shots = check_count("tasks", tasks), check_count("shots", shots)
    outer_shots = check_count("outer_shots", shots if outer_shots is None else outer_shots)
    curve_key, inner_key, outer_key = jax.random.split(key, 3)
    curves = sample_curves(curve_key, tasks)

    def points(key, count):
        return curves.at(
            jax.random.uniform(key, (tasks, count, 1), minval=RANGE[0], maxval=RANGE[1])
        )

    return points(inner_key, shots), points(outer_key, outer_shots)
