"""Runs of a study, read back."""

import pathlib
import sys
from collections.abc import Sequence

from experiments.methods import METHODS
from hdistill.training import Run, read_run


def read_runs(out: pathlib.Path) -> list[Run]:
    """The runs in OUT that ended, in the order of the tables.

    One that is damaged, and the copy of another, is left out, with a line on stderr.
    """
    runs: dict[str, Run] = {}
    for path in sorted(out.rglob("seed-*/summary.json")):
        try:
            run = read_run(path.parent)
            protocol = repr(sorted((k, v) for k, v in run.config.items() if k != "commit"))
            if runs.setdefault(protocol, run) is not run:
                raise ValueError(f"{run.path} is a copy of {runs[protocol].path}")
        except ValueError as error:
            print(f"left out of the report: {error}", file=sys.stderr)
    return sorted(runs.values(), key=_order)


def _order(run: Run) -> tuple:
    """By the setting's folder, the methods' order, the title (γ by γ), the seed."""
    config, names = run.config, list(METHODS)
    place = names.index(config["method"]) if config.get("method") in names else len(names)
    return str(run.path.parents[1]), place, config.get("title", ""), config.get("seed", 0)


def by_title(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each method, γ by γ, in the order of `runs`."""
    titles = dict.fromkeys(run.config["title"] for run in runs)
    return {title: [run for run in runs if run.config["title"] == title] for title in titles}
