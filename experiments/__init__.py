"""The paper's studies, run as `python -m experiments.NAME`."""

import os
import signal
import sys


def _leave(number, frame):
    """Ends a command that is still importing: nothing has begun."""
    print(f"{signal.Signals(number).name}: stopped", file=sys.stderr, flush=True)
    os._exit(130)


if sys.argv[0] == "-m":  # what Python has there while it looks for the module to run
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, _leave)
