"""Runs of a study: made for any number of seeds, and read back for its tables."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.common.folder import RunFolder, read_json, read_metrics
from experiments.common.methods import METHODS


class Run(NamedTuple):
    """What one run left."""

    path: pathlib.Path
    config: dict
    summary: dict
    metrics: list[dict]


def run_seeds(
    run: Callable, out: pathlib.Path, seeds, settings: dict, preset, resume: bool, result: str
) -> None:
    """Runs the seeds that have no summary yet, each in its folder OUT/seed-S.

    Args:
      run: (seed, folder) -> summary.
      out: the method's folder.
      seeds: which.
      settings: for config.json, with the method's `title`; the seed and the preset are added.
      preset: the protocol, a dataclass.
      resume: go on with what is there.
      result: the figure of the summary to tell when a run has ended.
    """
    if any(seed < 0 for seed in seeds):
        raise ValueError(f"seed={tuple(seeds)}: expected whole numbers >= 0")
    settings = settings | dataclasses.asdict(preset)
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    for seed in seeds:
        folder = RunFolder(out / f"seed-{seed}", settings | {"seed": seed}, resume)
        if folder.summary is None:
            summary = run(seed, folder)
            told = summary["diverged"] or f"{result} {summary[result]:.3f}"
            print(f"{settings['title']}, seed {seed}: {told}", file=sys.stderr)
        folder.close()


def read_runs(out: pathlib.Path) -> dict[str, list[Run]]:
    """The runs that ended, by the method's folder, in the tables' order."""
    folders = {path.name: path for path in out.iterdir() if path.is_dir()}
    runs: dict[str, list[Run]] = {}
    for name in sorted(folders, key=_order):
        paths = sorted(folders[name].glob("seed-*"), key=lambda p: int(p.name.split("-")[1]))
        for path in paths:
            config, summary = (read_json(path / f"{part}.json") for part in ("config", "summary"))
            if config and summary:
                runs.setdefault(name, []).append(Run(path, config, summary, read_metrics(path)))
    return runs


def _order(folder: str) -> tuple[int, str]:
    """By the methods' order; a folder's name is a method's, maybe with its γ after it."""
    method = folder.split("-gamma")[0]
    return METHODS.index(method) if method in METHODS else len(METHODS), folder


def spent(folder: RunFolder) -> dict:
    """Products for each task, seconds in all (compilation included), and of the median step."""
    rows = folder.metrics()
    seconds = [row["seconds"] for row in rows]
    return {
        "inner_optimisations_done": len(rows),
        "products": sum(row["products"] for row in rows),
        "seconds": sum(seconds),
        "seconds_each": float(np.median(seconds)) if seconds else None,
    }
