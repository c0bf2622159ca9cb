"""Seconds of compiled calls."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import jax


def warn_if_busy() -> None:
    """Says on stderr where other work would be timed too."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"the machine is busy: load {load:.1f}", file=sys.stderr)


def medians(calls: Sequence[Callable], repeats: int) -> list[float]:
    """The median seconds of each call; they take turns, after one that does not count."""
    seconds: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for each, call in zip(seconds, calls):
            start = time.perf_counter()
            jax.block_until_ready(call())
            if repeat:
                each.append(time.perf_counter() - start)
    return [statistics.median(each) for each in seconds]
