"""A set of runs as it is kept: runs.csv and series.csv, and what is drawn from these two only.

    runs.csv    what all runs share, as JSON after a #; then a row a run: its configuration, its
                figures, what produced them; `pandas.read_csv(file, skiprows=1)` has the rows
    series.csv  what the pictures draw: a row a point, of a named series of a method
    notes.md    what we make of it, if anything; its first paragraph says what the set is
    README.md   what produced it, its table, its pictures NAME.svg, the notes

A study's `report` module gives `table(frame)` and `plots(frame, series)`; `series(runs)`, if any;
`to_frame(runs)` where a run makes several rows, or `MEANS`, as `to_frame` has it.
"""

import functools
import io
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.draw.runs import read_runs
from experiments.draw.tables import provenance
from hdistill.training import OwnedFolder, Run

PAPER = pathlib.Path(__file__).parents[1] / "results" / "paper.csv"
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
    report.claim("runs.csv", "series.csv", "README.md")  # what is in the way
    return report


def write_set(report, out: pathlib.Path, study: str) -> str:
    """Writes the set of the runs in OUT into OUT/report; returns its table."""
    folder, runs = open_out(out, study), read_runs(out)
    if not runs:
        return "no run has ended\n"
    make = getattr(report, "to_frame", None)
    frame = make(runs) if make else to_frame(runs, getattr(report, "MEANS", {}))
    folder.claim("runs.csv").write_text(runs_text(frame))
    points = report.series(runs) if hasattr(report, "series") else []
    series, path = pd.DataFrame(points, columns=SERIES), folder.claim("series.csv")
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
    shown = [f"![{name.removesuffix('.svg')}]({name})\n" for name in sorted(figures)]
    file = folder / "notes.md"
    notes = [file.read_text().strip() + "\n"] if file.exists() else []
    title = f"# {folder.parent.name}/{folder.name}\n"
    page = "\n".join([title, provenance(frame), text, *shown, *notes])
    claim("README.md").write_text(page)
    return text


def svg(figure) -> str:
    """The picture, coordinates to a tenth of a point, no indents, one font: half the bytes."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=NO_METADATA)
    plt.close(figure)
    plain = re.sub(r"^ *(<!--.*-->\n)?", "", text.getvalue(), flags=re.MULTILINE)
    plain = plain.replace(FONT, "").replace("*{", "*{" + FONT.strip("; ") + "; ", 1)
    return re.sub(r"(\d\.\d)\d+(?=[^<>]*>)", r"\1", plain)  # in the tags, not in the words


def load_set(folder: pathlib.Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs.csv, series.csv) of a set; the latter is there where something is drawn from it."""
    with (folder / "runs.csv").open() as lines:
        shared = json.loads(lines.readline().removeprefix("# "))
        lost = {name: np.nan for name, value in shared.items() if value is None}
        frame = pd.read_csv(lines).assign(**shared | lost)
    file = folder / "series.csv"
    return frame, pd.read_csv(file) if file.exists() else pd.DataFrame(columns=SERIES)


def runs_text(frame: pd.DataFrame) -> str:
    """runs.csv: a column whose value all rows share is in the first line and nowhere else."""
    varied = [x for x in frame if x in ("method", "seed") or frame[x].nunique(dropna=False) > 1]
    shared = frame.drop(columns=varied).astype(object).iloc[0]
    first = shared.where(shared.notna(), None).to_dict()
    rows = frame[varied].to_csv(index=False, float_format="%.8g")
    return f"# {json.dumps(first, ensure_ascii=False)}\n{rows}"


def to_frame(runs: Sequence[Run], means: Mapping[str, str]) -> pd.DataFrame:
    """A row a run: configuration, then figures; what is not a number or a word is JSON.

    The method's arguments are columns, argument.NAME.

    Args:
      means: a column's name, and the figure whose mean over a run's rows it has: who learns faster.
    """
    rows = []
    for run in runs:
        arguments = {f"argument.{k}": v for k, v in run.config["arguments"].items()}
        config = {k: v for k, v in run.config.items() if k != "arguments"}
        rows.append(config | arguments | run.summary)
        for name, field in means.items():
            values = [row[field] for row in run.rows if row.get(field) is not None]
            rows[-1][name] = np.mean(values) if values else np.nan
    dumps = functools.partial(json.dumps, ensure_ascii=False, separators=(",", ":"))
    return pd.DataFrame(rows).map(lambda x: dumps(x) if isinstance(x, list | dict) else x)


@functools.cache
def paper_figures() -> pd.Series:
    """The figures of the paper's tables, by table, setting and method."""
    frame = pd.read_csv(PAPER, dtype=str)
    return frame.set_index(["where", "setting", "method"])["figure"].sort_index()
