"""Runs of a study, read back."""

import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np

from experiments.methods import METHODS
from hdistill.training import Run, read_run


def read_runs(out: pathlib.Path, setting: Sequence[str] = ()) -> list[Run]:
    """The runs in OUT that ended, in the order of the tables.

    One that is damaged, or that lies where its configuration says another belongs, as a copy does,
    is left out, with a line on stderr.

    Args:
      setting: names in config.json of what the folder OUT/SETTING is named by, where there is one.
    """
    runs: dict[str, Run] = {}
    for path in sorted(out.glob("*/" * (2 if setting else 1) + "seed-*/summary.json")):
        try:
            run = read_run(path.parent)
            _check_place(run, out, setting)
            same = runs.setdefault(repr(sorted(_protocol(run).items())), run)
            if same is not run:
                raise ValueError(f"{run.path} is a copy of {same.path}: expected each run once")
        except ValueError as error:
            print(f"left out of the report: {error}", file=sys.stderr)
    return sorted(runs.values(), key=_order)


def _check_place(run: Run, out: pathlib.Path, setting: Sequence[str]) -> None:
    """The run is where its study would put it: OUT/SETTING/METHOD.../seed-S."""
    seed = f"seed-{run.config.get('seed')}"
    place = out / "-".join(str(run.config.get(name)) for name in setting)
    method = run.config.get("method", run.config.get("problem", ""))
    at_home = run.path.name == seed and run.path.parent.name.startswith(method)
    if not at_home or run.path.parents[1] != place:
        raise ValueError(f"{run.path} is a copy or was moved: expected {place}/{method}.../{seed}")


def _protocol(run: Run) -> dict:
    return {k: v for k, v in run.config.items() if k != "commit"}


def _order(run: Run) -> tuple:
    """By the setting's folder, the methods' order, the title (γ by γ), the seed."""
    config, names = run.config, list(METHODS)
    place = names.index(config["method"]) if config.get("method") in names else len(names)
    return str(run.path.parents[1]), place, config.get("title", ""), config.get("seed", 0)


def numerics() -> dict:
    """Lists JAX's settings that decide a result, for config.json."""
    names = "jax_enable_x64", "jax_default_matmul_precision"
    return {name: getattr(jax.config, name) for name in names}


def spent(rows: list[dict]) -> dict:
    """Products for each task, seconds in all (compilation included), and of the median step."""
    seconds = [row["seconds"] for row in rows]
    return {
        "inner_optimisations_done": len(rows),
        "products": sum(row["products"] for row in rows),
        "seconds": sum(seconds),
        "seconds_each": float(np.median(seconds)) if seconds else None,
    }
