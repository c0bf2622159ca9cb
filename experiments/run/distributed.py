"""A study's meta-batch over all devices, of one process or of many."""

import os

import jax

import hdistill as hd
from hdistill.checks.values import leading_axis

# What `python -m experiments.run.launch` tells each process.
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
