"""Runs of a study, read back."""

import pathlib
import sys

import numpy as np

from experiments.common.methods import METHODS
from hdistill.training import Run, read_run


def read_runs(out: pathlib.Path) -> list[Run]:
    """The runs under OUT that ended, in the order of the tables.

    Not those of a study whose OUT lies in this one.

    A damaged one is left out, with a line on stderr.
    """
    runs = []
    for path in out.rglob("seed-*/summary.json"):
        between = path.parents[1 : path.parents.index(out)]
        if any((folder / "made.json").exists() for folder in between):  # another study's OUT
            continue
        try:
            runs.append(read_run(path.parent))
        except ValueError as error:
            print(f"left out of the report: {error}", file=sys.stderr)
    return sorted(runs, key=_order)


def _order(run: Run) -> tuple:
    """By the setting's folder, the methods' order, the title (γ by γ), the seed."""
    config, names = run.config, list(METHODS)
    place = names.index(config["method"]) if config.get("method") in names else len(names)
    return str(run.path.parents[1]), place, config.get("title", ""), config.get("seed", 0)


def spent(rows: list[dict]) -> dict:
    """Products for each task, seconds in all (compilation included), and of the median step."""
    seconds = [row["seconds"] for row in rows]
    return {
        "inner_optimisations_done": len(rows),
        "products": sum(row["products"] for row in rows),
        "seconds": sum(seconds),
        "seconds_each": float(np.median(seconds)) if seconds else None,
    }
