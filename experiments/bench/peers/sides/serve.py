"""The loop of every side: read a problem, answer once, then answer again as often as asked."""

import json
import pathlib
import sys
import time

import numpy as np


def serve(make) -> None:
    """Runs `make(problem, method, settings, arrays)()` once, then for each line on stdin.

    The first result goes to a file, seconds to stdout, a line each: from the end of the imports to
    the first result, then of each call. A call returns λ's leaves, as anything that NumPy reads.
    """
    folder, problem, method = sys.argv[1:]
    arrays = dict(np.load(pathlib.Path(folder) / f"{problem}.npz"))
    settings = json.loads((pathlib.Path(folder) / f"{problem}.json").read_text())
    start = time.perf_counter()
    call = make(problem, method, settings, arrays)
    leaves = [np.asarray(x) for x in call()]
    first = time.perf_counter() - start
    np.save(
        sys.argv[1] + "/" + pathlib.Path(sys.argv[0]).stem + f"-{problem}-{method}.npy",
        flat(leaves),
    )
    print(first, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        [np.asarray(x) for x in call()]
        print(time.perf_counter() - start, flush=True)


def flat(leaves) -> np.ndarray:
    """All of λ in one vector."""
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])


def leaves_of(arrays: dict, name: str) -> list[np.ndarray]:
    """NAME_0, NAME_1, ... of a problem's arrays."""
    return [arrays[f"{name}_{i}"] for i in range(sum(k.startswith(f"{name}_") for k in arrays))]
