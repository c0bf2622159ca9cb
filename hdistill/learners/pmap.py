"""The learner's step over devices by `jax.pmap`."""

import jax
import numpy as np

from hdistill.checks.values import leading_axis
from hdistill.devices import check_devices, everywhere
from hdistill.learners.learner import Learner


def pmap_step(learner: Learner, devices=None):
    """The learner's step with the meta-batch split over devices by `jax.pmap`.

    λ's hypergradient, φ's and the sums of θ's fit are averaged over the devices ("tasks" axis), so
    that the state stays the same on all and the numbers are those of `learner.step`.

    In several processes (`jax.distributed`) each calls the step with its own share of the tasks,
    as many for each device as every other, and with the same state; the numbers are those of one
    process with the shares in the order of the processes. That is checked in the first step; if a
    process later has another number, it says so, and the others wait until `jax.distributed` ends
    them.

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
      axis (not stacked by device), the state neither stacked nor replicated by hand. In one
      process it is donated.

    Raises:
      ValueError: no learner, no devices, none of this process's; from `step`, where the number of
        this process's devices does not divide its tasks, or, in the first step, another process
        has more or fewer for each device.
    """
    if not isinstance(learner, Learner):
        raise ValueError(f"learner={learner!r}: expected an hd.learner(...)")
    devices = check_devices(jax.devices() if devices is None else devices)
    here = jax.process_index()
    local = sum(device.process_index == here for device in devices)
    if not local:
        raise ValueError(f"devices={devices}: expected some of this process's among them")
    mapped = jax.pmap(
        lambda state, tasks: learner.pure_step(state, tasks, "tasks"),
        axis_name="tasks",
        in_axes=(None, 0),
        out_axes=None,
        devices=devices,
        # Across processes JAX would delete the state before it is spread (jax 0.10.2).
        donate_argnums=0 if jax.process_count() == 1 else (),
    )

    agreed = list[int]()  # how many tasks this process has

    def step(state, tasks):
        size = leading_axis(tasks, "tasks")
        if jax.process_count() > 1:
            if not agreed:
                agreed.append(_agree(size, local))
            if size != agreed[0]:
                raise ValueError(
                    f"tasks: {size} in this process; expected {agreed[0]}, as at first"
                )
        if size % local:
            raise ValueError(
                f"tasks: a meta-batch of {size} does not split over the {local} devices of "
                "the 'tasks' axis; expected a multiple"
            )
        if jax.process_count() == 1:  # or pmap would compile again for the state it returns
            state = everywhere(devices, state)
        return mapped(state, jax.tree.map(lambda x: x.reshape(local, -1, *x.shape[1:]), tasks))

    return step


def _agree(size: int, local: int) -> int:
    """The number of tasks, as many for each device in every process, or pmap would wait."""
    from jax.experimental import multihost_utils  # of no use in one process

    sizes, devices = multihost_utils.process_allgather(np.array([size, local])).T
    if (sizes % devices).any() or len(set(sizes // devices)) > 1:
        raise ValueError(
            f"tasks: the processes have {sizes.tolist()} for {devices.tolist()} devices; expected "
            "as many for each device"
        )
    return size
