"""The options and the end of every study's command line."""

import contextlib
import dataclasses
import io
import os
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Callable, Collection
from typing import Protocol

import jax
import tyro

from hdistill.training import Stopped

COMPILED = pathlib.Path("runs/compiled")  # where JAX_COMPILATION_CACHE_DIR does not say
LARGEST_SEED = 2**32 - 1  # JAX takes seeds modulo 2³²


class CommandLine(Protocol):
    """A dataclass of options."""

    def check(self) -> None:
        """Raises ValueError for an option out of range."""


@dataclasses.dataclass(frozen=True)
class Command:
    """The options that every study has.

    Attributes:
      seed: seeds to run; none for the preset's.
      out: the folder for results.
      resume: go on with the runs in `out` where they stopped.
      fallback: as resume; where a run's last checkpoint is damaged, from the one before it.
    """

    seed: tuple[int, ...] = ()
    out: pathlib.Path = pathlib.Path("runs")
    resume: bool = False
    fallback: bool = False

    def check(self) -> None:
        """Raises ValueError for a seed that JAX would take for another, or one given twice."""
        check_once("seed", self.seed)
        for seed in self.seed:
            if not 0 <= seed <= LARGEST_SEED:
                raise ValueError(f"seed={seed}: expected a whole number from 0 to {LARGEST_SEED}")

    @property
    def how(self) -> dict[str, bool]:
        """The options with which a run's folder is opened."""
        return {"resume": self.resume, "fallback": self.fallback}


def check_once(name: str, values: Collection) -> None:
    """Raises ValueError where a value, which is a run, is given twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"{name}={' '.join(map(str, values))}: expected each once")


def _interrupt(number, frame):
    raise KeyboardInterrupt(signal.Signals(number).name)


# In place of those of `experiments.__init__`, which are there until the imports are done.
HANDLERS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _interrupt}


def parse(kind: type[CommandLine], description: str | None) -> CommandLine:
    """The options given; those that the parser refuses are a ValueError of one line."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, description=description)
    except SystemExit as stop:
        if not stop.code:
            raise
        box = complaint.getvalue().partition("\n")[2].partition("│ ──")[0]
        raise ValueError(re.sub("[│╭╮╰╯─]", " ", box)) from None


def keep_programs() -> None:
    """Has JAX keep what it compiles on disk, so that the next run begins within seconds."""
    option = "jax_compilation_cache_dir"
    if getattr(jax.config, option) is not None:
        return
    with contextlib.suppress(OSError):  # a folder that cannot be written
        COMPILED.mkdir(parents=True, exist_ok=True)
        jax.config.update(option, str(COMPILED.absolute()))


def run_command(kind: type[CommandLine], main: Callable, description: str | None) -> None:
    """Runs `main` of what the command line says.

    What is refused ends in one line and status 2, Ctrl-C and SIGTERM in one line and status 130:
    at once, because Python crashes if it ends while XLA still compiles.
    """
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)
    try:
        config = parse(kind, description)
        config.check()
        if issubclass(kind, Command):
            keep_programs()
        main(config)
    except KeyboardInterrupt as stop:
        reason = stop if isinstance(stop, Stopped) else f"{str(stop) or 'SIGINT'}: stopped"
        resumable = "; the same command with --resume does the rest"
        print(f"{reason}{resumable * issubclass(kind, Command)}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(130)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        _leave_at_once(2)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        _leave_at_once(1)
        sys.exit(1)


def _leave_at_once(status: int) -> None:
    """Ends a process of several, which Python's own end would have wait for the others."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
