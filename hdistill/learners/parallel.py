"""Many devices: the only file that knows of them."""

import jax

from hdistill.checks import leading_axis
from hdistill.learners.learner import Learner


def pmap_step(learner: Learner, devices=None):
    """The learner's step with the meta-batch split over devices by `jax.pmap`.

    λ's hypergradient, φ's and the sums of θ's fit are averaged over the devices ("tasks" axis), so
    that the state stays the same on all and the numbers are those of `learner.step`.

    Examples:
      >>> learner = hd.learner(
      ...     problem, hd.offline.drmad, hyper_optimizer=optax.adam(0.1), horizon=20, every=5
      ... )
      >>> step = hd.pmap_step(learner, jax.devices()[:1])
      >>> state = learner.init(jax.random.key(0), hparams, weights)
      >>> state, info = step(state, tasks)
      >>> int(info.products)
      39

    Args:
      learner: from `hd.learner`.
      devices: the devices to use; None for all.

    Returns:
      `step(state, tasks) -> (state, info)`, like `learner.step`: tasks with one leading meta-batch
      axis (not stacked by device), the state neither stacked nor replicated by hand and donated.

    Raises:
      ValueError: no learner, no devices; from `step`, where the number of devices does not divide
        the meta-batch.
    """
    if not isinstance(learner, Learner):
        raise ValueError(f"learner={learner!r}: expected an hd.learner(...)")
    listed = isinstance(devices, list | tuple) and devices
    if devices is not None and not (listed and all(isinstance(d, jax.Device) for d in devices)):
        raise ValueError(f"devices={devices!r}: expected None or a list, such as jax.devices()")
    devices = jax.devices() if devices is None else list(devices)
    if len(set(devices)) < len(devices):
        raise ValueError(f"devices={devices!r}: expected each device once")
    mapped = jax.pmap(
        lambda state, tasks: learner.pure_step(state, tasks, "tasks"),
        axis_name="tasks",
        in_axes=(None, 0),
        out_axes=None,
        devices=devices,
        donate_argnums=0,
    )

    def step(state, tasks):
        size = leading_axis(tasks, "tasks")
        if size % len(devices):
            raise ValueError(
                f"tasks: a meta-batch of {size} does not split over the {len(devices)} devices of "
                "the 'tasks' axis; expected a multiple"
            )
        return mapped(
            state, jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), tasks)
        )

    return step
