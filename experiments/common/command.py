"""What the studies' command lines share."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable

import tyro

from hdistill.training import Stopped

LARGEST_SEED = 2**32 - 1  # JAX takes seeds modulo 2³²


@dataclasses.dataclass(frozen=True)
class Command:
    """What every study is told.

    Attributes:
      seed: seeds to run; none for the preset's.
      out: the folder for results.
      resume: go on with the runs in `out` where they stopped.
      fallback: where a run's last checkpoint is damaged, go on from the one before it.
    """

    seed: tuple[int, ...] = ()
    out: pathlib.Path = pathlib.Path("runs")
    resume: bool = False
    fallback: bool = False

    def check(self) -> None:
        """Raises ValueError for a seed that JAX would take for another."""
        for seed in self.seed:
            if not 0 <= seed <= LARGEST_SEED:
                raise ValueError(f"seed={seed}: expected a whole number from 0 to {LARGEST_SEED}")

    @property
    def how(self) -> dict[str, bool]:
        """How to open a run's folder."""
        return {"resume": self.resume, "fallback": self.fallback}


def run_command(kind: type[Command], main: Callable, description: str | None) -> None:
    """Runs `main` of what the command line says. What is refused ends in one line and status 2."""
    try:
        config = tyro.cli(kind, description=description)
        config.check()
        main(config)
    except Stopped as stop:
        print(f"{stop}; the same command with --resume goes on from there", file=sys.stderr)
        sys.exit(130)
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
