"""A study's meta-batch over all devices, of one process or of many."""

import contextlib
import os

import jax

import hdistill as hd
from hdistill.checks import leading_axis

# What `python -m experiments.launch` tells each process.
ADDRESS, COUNT, RANK = "HDISTILL_COORDINATOR", "HDISTILL_PROCESSES", "HDISTILL_PROCESS"
HEARTBEAT = 10  # seconds without a sign of life after which a process counts as dead
PATIENCE = 3600  # seconds that the others wait at the end for process 0, which writes the report


def start() -> None:
    """Joins the other processes of the launcher, of SLURM or of a TPU pod, if there are any."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    address = count = rank = None  # JAX finds out
    if ADDRESS in os.environ:
        address, count, rank = os.environ[ADDRESS], int(os.environ[COUNT]), int(os.environ[RANK])
    try:
        jax.distributed.initialize(
            address,
            count,
            rank,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=PATIENCE,
        )
    except ValueError:  # JAX finds no others
        if address is not None:
            raise


def use_cores(tasks: int) -> None:
    """Shows a CPU as several devices: as many of its cores as divide the tasks of a meta-batch.

    XLA runs the small operations of an inner loop on one core, however many tasks are side by side
    (RESULTS.md, bench/images). Where the number is set already, or JAX has begun, it stays.
    """
    flags, option = os.environ.get("XLA_FLAGS", ""), "jax_num_cpu_devices"
    if "xla_force_host_platform_device_count" in flags or getattr(jax.config, option) > 0:
        return
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(RuntimeError):  # JAX has begun
        jax.config.update(option, _largest_divisor(tasks, ours or 1))


def cores(tasks: int) -> list[jax.Device] | None:
    """As many of a CPU's devices as divide the tasks of a meta-batch; None where that is one."""
    devices = jax.local_devices()
    count = _largest_divisor(tasks, len(devices)) if devices[0].platform == "cpu" else 1
    return devices[:count] if count > 1 else None


def _largest_divisor(number: int, most: int) -> int:
    return max(n for n in range(1, most + 1) if number % n == 0)


def spread(learner: hd.Learner, devices=None) -> hd.Learner:
    """The learner whose step splits the tasks over devices; each process is given them all."""
    step = hd.pmap_step(learner, devices)
    return learner._replace(step=lambda state, tasks: step(state, share(tasks)))


def share(tasks):
    """This process's part of the tasks, in the order of the processes.

    Raises:
      ValueError: the number of processes does not divide that of the tasks.
    """
    size, count, rank = leading_axis(tasks, "tasks"), jax.process_count(), jax.process_index()
    if size % count:
        raise ValueError(f"tasks: {size} do not split over {count} processes; expected a multiple")
    part = size // count
    return jax.tree.map(lambda x: x[rank * part : (rank + 1) * part], tasks)
