"""A long exact hypergradient that is killed again and again, in both directions: the same bits?

    python -m experiments.bench.kills --kills 50

The problem of `experiments.bench.long`, T = 400 in 20 segments. A process that computes
`hdistill.training.reverse_mode` is killed by SIGKILL at a random moment within a segment of the way
there, the next one within a segment of the way back, and so on; every tenth kill the call ends and
its g, w_T and losses are held against those of a run that nobody killed, bit for bit.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import jax

from experiments.bench import long
from experiments.run.command import run_command
from hdistill import training
from hdistill.checks.values import check_count

HORIZON, EACH = 400, 10  # inner steps, kills of one run


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      kills: how many, half of them on the way back.
      seed: of the moments.
    """

    kills: int = 50
    seed: int = 0

    def check(self) -> None:
        """Raises ValueError for an option out of range."""
        check_count("kills", self.kills)


def digest(folder: pathlib.Path | str) -> str:
    """Computes the hypergradient, or goes on with it; the bits of what it returns."""
    step = jax.jit(long.batch_at)
    g, info = training.reverse_mode(
        long.PROBLEM,
        jax.numpy.array([-7.0, -8.0]),
        long.start(),
        lambda t: jax.device_get(step(t)),
        long.batch_at(10**6),
        horizon=HORIZON,
        folder=folder,
        return_info=True,
    )
    leaves = jax.device_get(jax.tree.leaves((g, info.weights, info.outer_loss)))
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()


def directions(folder: pathlib.Path) -> list[str]:
    """Of each segment that has ended, its direction; several processes may have written it."""
    log = folder / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line)["direction"] for line in lines if line.endswith("}")]


def kill(folder: pathlib.Path, back: bool, rng: random.Random) -> str:
    """Kills a process in one direction; returns the direction in which it was."""
    code = f"from experiments.bench.kills import digest; digest({str(folder)!r})"
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    before = len(directions(folder))
    more = rng.randint(1, 3)  # segments after which it dies
    while process.poll() is None:
        seen = directions(folder)
        if len(seen) >= before + more and (not back or seen[-1] == "back"):
            break
        time.sleep(0.001)
    time.sleep(rng.random() * 0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return directions(folder)[-1]


def main(config: Config) -> None:
    """Kills, goes on, compares, and prints a line for each run."""
    rng, root = random.Random(config.seed), pathlib.Path(tempfile.mkdtemp())
    whole, kills, failed = digest(root / "whole"), [], 0
    for first in range(0, config.kills, EACH):
        folder, count = root / str(first), min(EACH, config.kills - first)
        kills += [kill(folder, i >= count // 2, rng) for i in range(count)]
        same = digest(folder) == whole
        failed += not same
        there = kills[-count:].count("forward")
        print(f"{there} kills on the way there, {count - there} on the way back:", end=" ")
        print("the same bits" if same else "OTHER BITS", flush=True)
    there = kills.count("forward")
    print(f"{len(kills)} kills, {there} there and {len(kills) - there} back; {failed} runs differ")
    sys.exit(failed > 0)


if __name__ == "__main__":
    run_command(Config, main, __doc__)
