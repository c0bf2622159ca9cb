"""A study's meta-batch over all devices, of one process or of many."""

import os

import jax

import hdistill as hd
from hdistill.checks import leading_axis

# What `python -m experiments.launch` tells each process.
ADDRESS, COUNT, RANK = "HDISTILL_COORDINATOR", "HDISTILL_PROCESSES", "HDISTILL_PROCESS"
HEARTBEAT = 10  # seconds without a sign of life after which a process counts as dead


def start() -> None:
    """Joins the other processes of the launcher, of SLURM or of a TPU pod, if there are any."""
    address = count = rank = None  # JAX finds out
    if ADDRESS in os.environ:
        address, count, rank = os.environ[ADDRESS], int(os.environ[COUNT]), int(os.environ[RANK])
    elif not _is_one_of_many():
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        address,
        count,
        rank,
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=HEARTBEAT,
    )


def _is_one_of_many() -> bool:
    """Whether SLURM or a TPU pod has started other processes too."""
    pod = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return pod or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def spread(learner: hd.Learner) -> hd.Learner:
    """The learner whose step splits the tasks over all devices; each process is given them all."""
    step = hd.pmap_step(learner)
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
