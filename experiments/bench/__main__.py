"""The benches that compare: cost, growth, and the peers, one after the other.

    python -m experiments.bench

Each is a process of its own, with its table, CSV and picture in OUT; the others (`images`, `long`,
`kills`, `half`, `diagnosis`, `smooth`, `schedules`, `darts`, `rater`) are run by name, as `python
-m experiments.bench.images`.
"""

import dataclasses
import pathlib
import subprocess
import sys

from experiments.run.command import run_command
from experiments.run.timing import warn_if_busy

OPTIONS = {
    "cost": ["--setting", "sinusoid", "anil", "warpgrad", "metaweightnet", "--repeats", "3"],
    "growth": [],
    "peers": [],
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line.

    Attributes:
      out: the folder for results.
    """

    out: pathlib.Path = pathlib.Path("runs/bench")

    def check(self) -> None:
        """Every path will do."""


def main(config: Config) -> None:
    """Runs each, and says which failed."""
    warn_if_busy()
    failed = []
    for name, options in OPTIONS.items():
        command = [sys.executable, "-m", f"experiments.bench.{name}", *options]
        print(f"\n{name}\n", flush=True)
        if subprocess.run([*command, "--out", str(config.out / name)]).returncode:
            failed.append(name)
    if failed:
        raise ValueError(f"failed, see above: {', '.join(failed)}")


if __name__ == "__main__":
    run_command(Config, main, __doc__)
