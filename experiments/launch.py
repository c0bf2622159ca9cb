"""Runs a study in several processes of this machine.

    python -m experiments.launch --processes 2 experiments.sinusoid --preset paper --method robust
    python -m experiments.launch --processes 2 --devices 2 experiments.sinusoid    on a CPU

Adds --distributed to the study's command. Where a process dies, the others are stopped, and the
last line says how to go on. On several machines SLURM or the TPU pod starts the processes
(docs/guides/devices.md).
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

from experiments.common.distributed import ADDRESS, COUNT, RANK

GRACE = 5  # seconds to end in, once one process has


def start(command: list[str], processes: int, devices: int | None) -> list[subprocess.Popen]:
    """The processes; what the first one says is shown."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    shared = {ADDRESS: address, COUNT: str(processes)}
    if devices is not None:
        shared["JAX_NUM_CPU_DEVICES"] = str(devices)
    started = []
    for rank in range(processes):
        output = subprocess.DEVNULL if rank else None
        environment = os.environ | shared | {RANK: str(rank)}
        started.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
    return started


def wait(started: list[subprocess.Popen]) -> tuple[int, int]:
    """(process, exit status) of the first that fails; (0, 0) where all end well."""
    while any(process.poll() is None for process in started):
        for rank, process in enumerate(started):
            if process.poll():
                return rank, process.returncode
        time.sleep(0.1)
    return next(((i, p.returncode) for i, p in enumerate(started) if p.returncode), (0, 0))


def stop(started: list[subprocess.Popen]) -> None:
    """Ends those that still run: one that waits for a dead one cannot end by itself."""
    for process in started:
        process.terminate()
    deadline = time.monotonic() + GRACE
    while any(process.poll() is None for process in started) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in started:
        process.kill()
        process.wait()


def main() -> None:
    """Starts the processes and waits for them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--devices", type=int, help="host devices of each process, on a CPU")
    parser.add_argument("study", help="as experiments.sinusoid")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="the study's")
    given = parser.parse_args()
    for name in ("processes", "devices"):
        value = getattr(given, name)
        if value is not None and value < 1:
            parser.error(f"{name}={value}: expected at least 1")
    command = [sys.executable, "-m", given.study, *given.options, "--distributed"]
    started = start(command, given.processes, given.devices)

    def pass_on(*_):
        for process in started:
            process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    rank, status = wait(started)
    stop(started)
    if status:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        again = "" if "--resume" in given.options else " with --resume"
        print(
            f"process {rank} of {given.processes} ended with {how}, the others were stopped; the "
            f"same command{again} goes on from the last checkpoint",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
