"""A set of runs as it is kept: runs.csv and series.csv, and what is drawn from these two only.

    runs.csv    what all runs share, as JSON after a #; then a row a run: its configuration, its
                figures, what produced them; `pandas.read_csv(file, skiprows=1)` has the rows
    series.csv  what the pictures draw: a row a point, of a named series of a method
    notes.md    what we make of it, if anything; its first paragraph says what the set is
    README.md   what produced it, its table, its pictures NAME.svg, the notes

A study's `report` module gives `series(runs)`, `table(frame)` and `plots(frame, series)`, and
`to_frame(runs)` where a run makes several rows.
"""

import functools
import io
import json
import pathlib
import re
from collections.abc import Callable, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.draw.runs import read_runs
from experiments.draw.tables import provenance
from hdistill.training import OwnedFolder, Run

PAPER = pathlib.Path(__file__).parents[1] / "results" / "paper.csv"
FILES = ("runs.csv", "series.csv", "README.md")
SERIES = ["setting", "series", "method", "title", "x", "low", "y", "high"]
FONT = "; font-family: 'DejaVu Sans'"  # of each word, unless the picture's style has it
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
matplotlib.rcParams |= {
    "svg.hashsalt": "hdistill",
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],  # each word of a picture names them all
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
    folder.claim("runs.csv").write_text(runs_text(frame))
    series = pd.DataFrame(report.series(runs), columns=SERIES)
    path = folder.claim("series.csv")
    path.unlink(missing_ok=True)
    if len(series):
        series.to_csv(path, index=False, float_format="%.4g")
    return draw_set(report, folder.path, folder.claim)


def draw_set(report, folder: pathlib.Path, claim: Callable[[str], pathlib.Path]) -> str:
    """Writes the page and the pictures of a set; returns its table.

    Args:
      claim: a file's name -> its path, which may be written.
    """
    frame, series = load_set(folder)
    text = report.table(frame)
    figures = {f"{name}.svg": figure for name, figure in report.plots(frame, series).items()}
    for name in {path.name for path in folder.glob("*.svg")} - figures.keys():
        claim(name).unlink()  # drawn from other runs
    for name, figure in figures.items():
        claim(name).write_text(svg(figure))
    claim("README.md").write_text(page(folder, frame, text, sorted(figures)))
    return text


def svg(figure) -> str:
    """The picture, coordinates to a tenth of a point, no indents, one font: half the bytes."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=NO_METADATA)
    plt.close(figure)

    def shortened(tag: re.Match) -> str:
        return re.sub(r"(\d\.\d)\d+", r"\1", tag[0])

    plain = re.sub(r"^ *(<!--.*-->\n)?", "", text.getvalue(), flags=re.MULTILINE)
    plain = plain.replace(FONT, "").replace("*{", "*{" + FONT.strip("; ") + "; ", 1)
    return re.sub("<[^>]*>", shortened, plain)  # in the tags, not in the words


def page(folder: pathlib.Path, frame: pd.DataFrame, table: str, pictures: Sequence[str]) -> str:
    """README.md of a set."""
    title = f"# {folder.parent.name}/{folder.name}\n"
    shown = [f"![{name.removesuffix('.svg')}]({name})\n" for name in pictures]
    return "\n".join([title, provenance(frame), table, *shown, *notes(folder)])


def notes(folder: pathlib.Path) -> list[str]:
    """The folder's notes.md, if it has one."""
    file = folder / "notes.md"
    return [file.read_text().strip() + "\n"] if file.exists() else []


def load_set(folder: pathlib.Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs.csv, series.csv) of a set; the latter is there where something is drawn from it."""
    file = folder / "series.csv"
    series = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=SERIES)
    return runs_frame(folder / "runs.csv"), series


def runs_text(frame: pd.DataFrame) -> str:
    """runs.csv: a column whose value all rows share is in the first line and nowhere else."""
    constant = [name for name in frame if frame[name].nunique(dropna=False) == 1]
    constant = [name for name in constant if name not in ("method", "seed")]
    first = {name: _plain(frame[name].iloc[0]) for name in constant}
    rows = frame.drop(columns=constant).to_csv(index=False, float_format="%.8g")
    return f"# {json.dumps(first, ensure_ascii=False)}\n{rows}"


def _plain(value):
    """A cell as JSON has it."""
    value = value.item() if hasattr(value, "item") else value
    return None if pd.isna(value) else value


def runs_frame(file: pathlib.Path) -> pd.DataFrame:
    """Reads the text of `runs_text`."""
    with file.open() as lines:
        first = json.loads(lines.readline().removeprefix("# "))
    constant = {name: float("nan") if value is None else value for name, value in first.items()}
    return pd.read_csv(file, skiprows=1).assign(**constant)


def to_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run: configuration, then figures; what is not a number or a word is JSON.

    The method's arguments are columns, argument.NAME.
    """
    rows = []
    for run in runs:
        arguments = {f"argument.{k}": v for k, v in run.config["arguments"].items()}
        config = {k: v for k, v in run.config.items() if k != "arguments"}
        row = config | arguments | run.summary
        rows.append({k: _cell(v) for k, v in row.items()})
    return pd.DataFrame(rows)


def _cell(value):
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return value


@functools.cache
def paper_figures(where: str) -> dict[str, dict[str, str]]:
    """The figures of a table of the paper, by setting and method."""
    frame = pd.read_csv(PAPER, dtype=str)
    rows = frame[frame["where"] == where]
    return {
        s: dict(zip(of["method"], of["figure"])) for s, of in rows.groupby("setting", sort=False)
    }


def means(runs: Sequence[Run], field: str) -> list[float]:
    """Of each run the mean of a figure over its rows: who learns faster."""
    values = [[row[field] for row in run.rows if row.get(field) is not None] for run in runs]
    return [float(np.mean(each)) if each else np.nan for each in values]


def by_title(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each method, γ by γ, in the order of `runs`."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.config["title"], []).append(run)
    return groups
