"""A run survives kills at random moments, every file damaged, a full disk, two at once.

A small run (20 steps of HyperDistill on two sinusoids, a checkpoint every 5) is made whole once.
Then, again and again, one is hurt, and resumed. After each: *same*, the end is that of the whole
run, to the bit, its products and its metrics too; *named*, it is refused, in a message that names
the file, and the message's own advice then leads to the same end; *again*, the same, and the advice
is to begin again; *lost*, neither; *silent*, it ends differently and nothing is said.
"""

import contextlib
import functools
import io
import itertools
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hdistill as hd
from hdistill import training
from hdistill.data.sinusoid import sample_tasks
from hdistill.models.anil_regression import AnilRegression

STEPS, CONFIG = 20, {"seed": 3}
KILLS, DAMAGES = 2, 8


@functools.cache
def make():
    """(learner, its first state, key -> tasks)."""
    model, optimizer = AnilRegression((8,)), optax.sgd(0.01, momentum=0.9)

    def loss(params, hparams, points):
        return ((model.apply(params, hparams, points.x) - points.y) ** 2).mean()

    problem = hd.from_losses(loss, loss, optimizer)
    learner = hd.learner(
        problem,
        hd.online.hyperdistill(problem),
        hyper_optimizer=optax.adam(1e-3),
        initialization=hd.reptile(),
        horizon=5,
        fit_period=7,
    )
    sample = jax.jit(lambda key: sample_tasks(key, 2))
    hparams, params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 1)))
    weights = hd.InnerState(params, optimizer.init(params))
    return learner, learner.init(jax.random.key(1), hparams, weights), sample


def target(folder: pathlib.Path, **how) -> np.ndarray:
    """The run: (λ, φ and the moments in one array) at its end."""
    learner, first, sample = make()
    with training.RunFolder(folder, CONFIG, **how) as opened:
        state = training.run(
            learner.step,
            jax.tree.map(jnp.copy, first),  # the step is given its memory
            lambda m: sample(jax.random.fold_in(jax.random.key(2), m)),
            total=STEPS,
            folder=opened,
            save_every=5,
        )
        end = np.concatenate([np.ravel(x) for x in jax.tree.leaves(state._replace(key=None))])
        opened.write("end.json", str(end.tolist()))
        opened.finish({"products": sum(row["products"] for row in opened.rows)})
    return end


class Faults:
    """The whole run, and what becomes of others beside it."""

    def __init__(self, root: pathlib.Path, rng: random.Random):
        self.root, self.rng = root, rng
        self.whole = self.end(root / "whole")

    def end(self, folder: pathlib.Path, **how) -> tuple:
        """(last state, products, metrics) of the run in a folder, resumed."""
        with contextlib.redirect_stderr(io.StringIO()):
            if not (folder / "summary.json").exists():
                target(folder, **{"resume": True} | how)
            run = training.read_run(folder)
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in run.rows]
        return (folder / "end.json").read_text(), run.summary["products"], rows

    def outcome(self, folder: pathlib.Path) -> str:
        """Resumes a hurt run and names its end: "same", "named", "again", "lost" or "silent"."""
        try:
            return "same" if self.end(folder) == self.whole else "silent"
        except ValueError as error:
            message = str(error)
        how: dict = {}
        for _ in range(4):
            before = dict(how), sorted(folder.rglob("*"))
            how |= self.follow(folder, message)
            if before == (how, sorted(folder.rglob("*"))):
                print(f"\nno advice: {message}", file=sys.stderr)
                return "lost"
            try:
                same = self.end(folder, **how) == self.whole
            except ValueError as error:
                message = str(error)
            else:
                again = how.get("resume") is False
                return "silent" if not same else "again" if again else "named"
        return "lost"

    def follow(self, folder: pathlib.Path, message: str) -> dict:
        """Does what a message advises; returns the options that it asks for."""
        if "delete summary.json" in message:
            (folder / "summary.json").unlink()
        elif "fallback=True" in message:
            return {"fallback": True}
        elif "begins again" in message:
            return {"resume": False, "fallback": False}
        elif "delete it" in message:
            pathlib.Path(message.split(" ")[0]).unlink()
        elif "move it" in message:
            path = pathlib.Path(message.split(" ")[0])
            path.rename(self.root / f"moved-{len(list(self.root.iterdir()))}")
            return {"resume": False} if path.name == "checkpoints" else {}
        return {}

    def kill(self, number: int, how: int) -> str:
        """A process killed at a random moment of its run."""
        folder = self.root / f"kill-{number}"
        process = start(folder)
        log, lines = folder / "metrics.jsonl", self.rng.randint(0, STEPS - 5)
        while process.poll() is None and count_lines(log) < lines:
            time.sleep(0.001)
        time.sleep(self.rng.random() * 0.03)  # at times within a checkpoint
        process.send_signal(how)
        process.wait()
        return self.outcome(folder)

    def damages(self, count: int) -> list[tuple[pathlib.Path, str]]:
        """The files to hurt and the ways: each in each way, in random order, then again."""
        whole = self.root / "whole"
        files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
        ways = itertools.product(sorted(files), ("deleted", "cut", "flipped"))
        shuffled = self.rng.sample(every := list(ways), len(every))
        return list(itertools.islice(itertools.cycle(shuffled), count))

    def damage(self, number: int, file: pathlib.Path, kind: str, ended: bool) -> str:
        """Hurts one file of a run that ended, or nearly, and resumes it."""
        folder = self.root / f"damage-{number}"
        shutil.copytree(self.root / "whole", folder)
        if not ended:
            (folder / "summary.json").unlink()
        path = folder / file
        content = bytearray(path.read_bytes())
        if kind == "deleted" or not content:
            path.unlink()
        elif kind == "cut":
            path.write_bytes(content[: len(content) // 2])
        else:
            content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
            path.write_bytes(content)
        return self.outcome(folder)

    def full_disk(self) -> str:
        """No file may grow beyond 2 kB from here on, as on a full disk."""
        folder = self.root / "full"
        limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.SIG_IGN
        before = signal.signal(signal.SIGXFSZ, handler)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
        try:
            target(folder, resume=True)
            return "lost"  # it should not have been able to end
        except Exception:
            pass
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, before)
        return self.outcome(folder)

    def two_at_once(self) -> str:
        """A second process in the folder of a first."""
        folder = self.root / "two"
        with training.RunFolder(folder, CONFIG):
            second = start(folder, stderr=subprocess.PIPE)
            refused = second.communicate()[1].decode()
        message = f"process {os.getpid()} runs there" in refused
        return self.outcome(folder) if message else "silent"


def start(folder: pathlib.Path, stderr=subprocess.DEVNULL) -> subprocess.Popen:
    """The target in another process, resuming."""
    command = [sys.executable, "-m", "tests.training.test_faults", str(folder)]
    return subprocess.Popen(command, stderr=stderr)


def count_lines(path: pathlib.Path) -> int:
    """Lines of a file, 0 if it does not exist."""
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_is_silent(tmp_path, monkeypatch):
    for name, value in {
        "jax_compilation_cache_dir": str(tmp_path / "cache"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }.items():
        monkeypatch.setenv(name.upper(), str(value))  # for the processes that are killed
    monkeypatch.setenv("JAX_ENABLE_X64", "1")  # as here
    seed = random.randrange(1000)
    rng = random.Random(seed)
    faults, outcomes = Faults(tmp_path.resolve(), rng), {}
    for i in range(KILLS):
        how = rng.choice([signal.SIGKILL, signal.SIGTERM])
        outcomes[f"kill {i}"] = faults.kill(i, how)
    for i, (file, kind) in enumerate(faults.damages(DAMAGES)):
        ended = file.name == "summary.json" or rng.random() < 0.5
        outcomes[f"{file} {kind}"] = faults.damage(i, file, kind, ended)
    outcomes |= {"full disk": faults.full_disk(), "two at once": faults.two_at_once()}
    bad = {name: end for name, end in outcomes.items() if end in ("lost", "silent")}
    assert not bad, (seed, bad)


if __name__ == "__main__":
    target(pathlib.Path(sys.argv[1]), resume=True)
