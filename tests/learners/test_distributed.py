"""Two processes of two host devices each end where one device does, and it resumes their run."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import optax

import hdistill as hd
from hdistill import training
from tests.problems import data_problem, make_tasks

ROOT = pathlib.Path(__file__).parents[2]
PROCESS = """
import json, sys
import jax
rank, port = map(int, sys.argv[1:3])
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, rank, shutdown_timeout_seconds=20)
import hdistill as hd
from tests.learners import test_distributed as shared

learner, state, tasks = shared.make()
part = jax.tree.map(lambda x: x[4 * rank : 4 * rank + 4], tasks)
messages, step = [], hd.pmap_step(learner)
def refused(step, count):
    try:
        step(state, jax.tree.map(lambda x: x[:count], tasks))
    except ValueError as error:
        messages.append(str(error))
refused(step, 3 + rank)
refused(hd.pmap_step(learner), 4 - 2 * rank)
after, rows = shared.run(step, state, part, 2, sys.argv[3])
refused(step, 2)
again, rows_again = shared.run(step, state, part, 2, sys.argv[3])
assert rows_again == rows and shared.numbers(again) == shared.numbers(after)
exact, state, _ = shared.make("reverse_mode")
moved, _ = hd.pmap_step(exact)(state, part)
print(json.dumps([shared.numbers(after), shared.numbers(moved), rows, messages]))
"""


def make(method="hyperdistill"):
    """(learner, first state, eight tasks)."""
    problem, hparams, weights = data_problem()
    methods = {
        "hyperdistill": hd.online.hyperdistill(problem, gamma=0.9),
        "reverse_mode": hd.offline.reverse_mode,
    }
    learner = hd.learner(
        problem,
        methods[method],
        hyper_optimizer=optax.adam(0.1),
        initialization=hd.reptile(0.5),
        horizon=3,
        fit_period=2,
    )
    return learner, learner.init(jax.random.key(0), hparams, weights), make_tasks(8)


def run(step, state, tasks, total, folder):
    """(the state after so many steps of the run in a folder, its rows but the seconds)."""
    with training.shared_folder(folder, {}, resume=True) as opened:
        state = training.run(
            step,
            state,
            lambda m: tasks,
            total=total,
            folder=opened,
            validate=lambda m, state: {"square": float((state.hparams**2).sum())},
        )
    return state, [{k: v for k, v in row.items() if k != "seconds"} for row in opened.rows]


def numbers(state):
    """λ, w, θ as lists."""
    return [x.tolist() for x in jax.tree.leaves((state.hparams, state.weights, state.theta))]


def start(rank, port, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROCESS, str(rank), str(port), str(folder)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result(process):
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out.splitlines()[-1])


def assert_same(ours, theirs):
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if not isinstance(other, str):
            np.testing.assert_allclose(mine, other, rtol=1e-12)


def test_processes_end_where_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = [start(rank, port, tmp_path / str(rank)) for rank in range(2)]
    learner, state, tasks = make()
    alone, rows = run(learner.step, state, tasks, 2, tmp_path / "alone")
    exact, state, _ = make("reverse_mode")
    moved, _ = exact.step(state, tasks)
    for ended, moved_there, theirs, messages in map(result, started):
        assert_same(ended, numbers(alone))
        assert_same(moved_there, numbers(moved))
        assert_same(theirs, rows)
        assert "the processes have [3, 4] for [2, 2] devices; expected as many for" in messages[0]
        assert "the processes have [4, 2] for [2, 2] devices; expected as many for" in messages[1]
        assert "2 in this process; expected 4" in messages[2]
    assert not (tmp_path / "1").exists()  # process 0 alone writes
    ends = [run(learner.step, make()[1], tasks, 3, tmp_path / name) for name in ("0", "alone")]
    assert_same(numbers(ends[0][0]), numbers(ends[1][0]))
    assert_same(ends[0][1], ends[1][1])
