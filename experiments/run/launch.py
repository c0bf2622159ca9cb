"""Runs a study in several processes of this machine.

    python -m experiments.run.launch --processes 2 experiments.sinusoid --method robust
    python -m experiments.run.launch --processes 2 --devices 2 experiments.sinusoid    on a CPU

Adds --distributed to the study's command. Where a process fails, its last words are shown, the
others are stopped, and the last line says how to go on; Ctrl-C and SIGTERM reach each process once.
On several machines SLURM or the TPU pod starts the processes (docs/guides/devices.md).
"""

import argparse
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from experiments.run.distributed import ADDRESS, COUNT, RANK

GRACE = 5  # seconds in which a process may end, once another has failed
PATIENCE = 600  # the same, where it was asked to stop, and writes a checkpoint


class Child(NamedTuple):
    """A process of the study.

    Attributes:
      process: running or not.
      words: its output, a file; none for the first one, whose output is ours.
    """

    process: subprocess.Popen
    words: pathlib.Path | None

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self.process.poll()


def start(
    command: list[str], processes: int, devices: int | None, folder: pathlib.Path
) -> list[Child]:
    """Starts the processes; what the first one says is shown, of the others it goes to a folder."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    shared = {ADDRESS: address, COUNT: str(processes)}
    if devices is not None:
        shared["JAX_NUM_CPU_DEVICES"] = str(devices)
    return [_start(command, shared, rank, folder) for rank in range(processes)]


def _start(command: list[str], shared: dict, rank: int, folder: pathlib.Path) -> Child:
    words = folder / str(rank) if rank else None
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(words.open("wb")) if words else None
        process = subprocess.Popen(
            command,
            env=os.environ | shared | {RANK: str(rank)},
            stdout=output,
            stderr=output,
            start_new_session=True,  # the terminal's Ctrl-C reaches it only through us
        )
    return Child(process, words)


def wait(children: list[Child]) -> tuple[int, int]:
    """(process, exit status) of one that fails, as soon as one does; (0, 0) where all end well."""
    while True:
        running = any(child.status is None for child in children)
        for rank, child in enumerate(children):
            if child.status:
                return rank, child.status
        if not running:
            return 0, 0
        time.sleep(0.1)


def stop(children: list[Child], patience: float = 0) -> None:
    """Ends those that still run: one that waits for a dead one cannot end by itself."""
    _leave_time(children, patience)
    for child in children:
        child.process.terminate()
    _leave_time(children, GRACE)
    for child in children:
        child.process.kill()
        child.process.wait()


def _leave_time(children: list[Child], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(child.status is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)


def last_words(child: Child) -> str:
    """The last lines of a process whose output was not shown."""
    text = child.words.read_bytes().decode(errors="replace") if child.words else ""
    return "".join(text.splitlines(keepends=True)[-20:])


def advice(rank: int, processes: int, status: int, options: list[str]) -> str:
    """The last line: which process failed, how, and what to do."""
    how = f"signal {-status}" if status < 0 else f"status {status}"
    who = f"process {rank} of {processes} ended with {how}, the others were stopped"
    if status == 2:
        return f"{who}: the command was refused"
    again = "" if "--resume" in options else " with --resume"
    return f"{who}; the same command{again} goes on from the last checkpoint, if there is one"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options: the launcher's, the study, and the study's own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--devices", type=int, help="host devices of each process, on a CPU")
    parser.add_argument("study", help="experiments.sinusoid or experiments.image_meta")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="the study's")
    given = parser.parse_args(arguments)
    for name in ("processes", "devices"):
        value = getattr(given, name)
        if value is not None and value < 1:
            parser.error(f"{name}={value}: expected at least 1")
    return given


def main() -> None:
    """Starts the processes and waits for them."""
    given = parse()
    children: list[Child] = []
    asked: list[int] = []

    def pass_on(number, frame):
        for child in children:
            child.process.kill() if asked else child.process.terminate()
        asked.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    command = [sys.executable, "-m", given.study, *given.options, "--distributed"]
    with tempfile.TemporaryDirectory() as folder:
        children += start(command, given.processes, given.devices, pathlib.Path(folder))
        rank, status = wait(children)
        stop(children, PATIENCE if asked else 0)
        words = last_words(children[rank])
    if asked:
        sys.exit(130)
    if status:
        sys.stderr.write(words)
        print(advice(rank, given.processes, status, given.options), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
