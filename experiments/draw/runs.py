"""Runs of a study, read back."""

import pathlib
import sys
from collections.abc import Sequence

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
            place = out / "-".join(str(run.config.get(name)) for name in setting)
            method = run.config.get("method", run.config.get("problem", ""))
            home = place / method / f"seed-{run.config.get('seed')}"
            here = run.path.parents[1] / run.path.parent.name[: len(method)] / run.path.name
            protocol = repr(sorted((k, v) for k, v in run.config.items() if k != "commit"))
            if here != home or protocol in runs:
                raise ValueError(f"{run.path} is a copy or was moved: expected {home}")
            runs[protocol] = run
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
