"""A set of runs as it is kept: runs.csv and series.csv, and what is drawn from these two alone.

    runs.csv    a row a run: its configuration, its figures, what produced them
    series.csv  what the pictures draw: a row a point, of a named series of a method
    table.md, NAME.svg

A study's `report` module gives `series(runs)`, `table(frame)` and `plots(frame, series)`, and
`to_frame(runs)` where a run makes several rows.
"""

import json
import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from experiments.common.runs import read_runs
from hdistill.training import OwnedFolder, Run

FILES = ("runs.csv", "series.csv", "table.md")
SERIES = ["setting", "series", "method", "title", "x", "low", "y", "high"]
matplotlib.rcParams |= {
    "svg.hashsalt": "hdistill",
    "svg.fonttype": "none",
}  # same picture, same file


def open_out(out: pathlib.Path, study: str) -> OwnedFolder:
    """Makes OUT the study's, so that no other writes there; OUT/report is where its set goes."""
    folder = OwnedFolder(out, f"study {study}")
    folder.claim("report").mkdir(exist_ok=True)
    report = OwnedFolder(folder.path / "report", "a report")
    report.claim(*FILES)  # what would be in the way is said before the runs, not after them
    return report


def write_set(report, out: pathlib.Path, study: str) -> str:
    """Writes the set of the runs in OUT into OUT/report; returns its table."""
    folder, runs = open_out(out, study), read_runs(out, getattr(report, "SETTING", ()))
    if not runs:
        return "no run has ended\n"
    frame = getattr(report, "to_frame", to_frame)(runs)
    frame.to_csv(folder.claim("runs.csv"), index=False)
    series = pd.DataFrame(report.series(runs), columns=SERIES)
    series.to_csv(folder.claim("series.csv"), index=False, float_format="%.4g")
    return draw_set(report, folder)


def draw_set(report, folder: OwnedFolder) -> str:
    """Writes the table and the pictures of a set; returns the table."""
    frame, series = load_set(folder.path)
    text = report.table(frame)
    folder.claim("table.md").write_text(text)
    figures = {f"{name}.svg": figure for name, figure in report.plots(frame, series).items()}
    for name, figure in figures.items():
        figure.savefig(folder.claim(name), metadata={"Date": None})
        plt.close(figure)
    for name in folder.made.difference(FILES, figures):  # drawn from other runs
        (folder.path / name).unlink(missing_ok=True)
    return text


def load_set(folder: pathlib.Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs.csv, series.csv) of a set."""
    return tuple(pd.read_csv(folder / f"{name}.csv") for name in ("runs", "series"))


def to_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run: configuration, then figures; what is not a number or a word is JSON."""
    rows = [{**run.config, **run.summary} for run in runs]
    return pd.DataFrame([{k: _cell(v) for k, v in row.items()} for row in rows])


def _cell(value):
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return value


def by_title(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each method, γ by γ, in the order of `runs`."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.config["title"], []).append(run)
    return groups
