"""Two processes of two host devices each end where one process of four does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
PROCESS = """
import json, sys
import jax
rank, processes, port = map(int, sys.argv[1:])
jax.config.update("jax_num_cpu_devices", 4 // processes)
jax.config.update("jax_enable_x64", True)
if processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", processes, rank)
import optax
import hdistill as hd
from tests.problems import data_problem, make_tasks

problem, hparams, weights = data_problem()
learner = hd.learner(
    problem, hd.online.hyperdistill(problem, gamma=0.9), hyper_optimizer=optax.adam(0.1),
    initialization=hd.reptile(0.5), horizon=3, fit_period=2,
)
size = 8 // processes
tasks = jax.tree.map(lambda x: x[rank * size : (rank + 1) * size], make_tasks(8))
state = learner.init(jax.random.key(0), hparams, weights)
messages, step = [], hd.pmap_step(learner)
def refused(step, count):
    try:
        step(state, jax.tree.map(lambda x: x[:count], tasks))
    except ValueError as error:
        messages.append(str(error))
if processes > 1:
    refused(step, 3 + rank)
    refused(hd.pmap_step(learner), 4 - 2 * rank)
for _ in range(3):
    state, info = step(state, tasks)
if processes > 1:
    refused(step, 2)
leaves = [x.tolist() for x in jax.tree.leaves((state.hparams, state.weights, state.theta))]
print(json.dumps([leaves, int(info.products), messages]))
"""


def start(rank, processes, port):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROCESS, str(rank), str(processes), str(port)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result(process):
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out.splitlines()[-1])


def test_processes_end_where_one_does():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = [start(rank, 2, port) for rank in range(2)]
    alone, spent, _ = result(start(0, 1, port))
    for leaves, products, messages in map(result, started):
        assert products == spent
        for mine, theirs in zip(leaves, alone):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12)
        assert "the processes have [3, 4] for [2, 2] devices; expected as many for" in messages[0]
        assert "the processes have [4, 2] for [2, 2] devices; expected as many for" in messages[1]
        assert "2 in this process; expected 4" in messages[2]
