"""Runs of a study, read back for its tables."""

import pathlib
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
    names, method = list(METHODS), folder.split("-gamma")[0]
    return names.index(method) if method in names else len(names), folder


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
