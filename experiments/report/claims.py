"""The paper's claims, our figures, and the verdict on each: claims.md, and RESULTS.md's summary.

A claim is a row of results/claims.csv: where the paper makes it; what it gives for it ("figures"
for those in paper.csv); the set, and the part of it, that has ours; the methods compared; the
column, scaled so that more is the claim's side. It holds where the 95% interval of the difference
over pairs of runs of one seed leaves 0 on that side, or where a ratio is from `least` to `most`.
"""

import collections
import json

import numpy as np
import pandas as pd

from experiments.draw import tables
from experiments.draw.sets import paper_figures
from experiments.image_meta.report import SETTING


def summary(claims: list[dict], says: dict[str, str]) -> str:
    """Markdown: a row for each table and figure of the paper, with how many of its claims hold."""
    rows = []
    for where in dict.fromkeys(claim["where"] for claim in claims):
        of = [claim for claim in claims if claim["where"] == where]
        sets = dict.fromkeys(claim["set"].partition("]")[0].lstrip("[") for claim in of)
        row = {"where": where, "the paper": says[where], "claims": str(len(of))}
        rows.append(row | {"ours": tally(of), "sets": ", ".join(sets)})
    return tables.markdown(rows)


def tally(claims: list[dict]) -> str:
    """Counts the claims that hold, in one line."""
    counts = collections.Counter(claim["holds?"].partition(":")[0] for claim in claims)
    return ", ".join(f"{k} {n}" for k, n in counts.most_common())


def judge(claim: dict, frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """A claim's row in claims.md.

    Args:
      claim: a row of claims.csv.
      frame, series: the runs and the series of its set.
    """
    frame, scaled_down = _part(frame, claim["of"]), not claim["set"].startswith("sinusoid")
    titles, paper = _titles(frame), claim["paper"]
    methods = claim["ours"], claim["base"]
    ours, base = (titles.get(name, titles.get(f"{name}-momentum", "")) for name in methods)
    if paper == "figures":
        paper = " against ".join(paper_figures()[claim["where"], claim["of"]][list(methods)])
    if claim["column"] == "weighting":
        curves = series[series["series"] == "weighting"].groupby(["method", "title"])["y"].mean()
        values = {name: curves[claim[name]].mean() for name in ("ours", "base")}
        words, holds = claim["words"].format(**values), values["ours"] < values["base"]
    elif claim["words"] == "every γ":
        versions = frame.loc[frame["method"].str.startswith("hyperdistill"), "title"].unique()
        gaps = {x: tables.difference(frame, x, base, claim["column"], 100) for x in versions}
        told = {title: tables.format_interval(gap, 2) for title, gap in gaps.items()}
        words = "; ".join(f"{title}: {gap} points" for title, gap in told.items())
        holds = "; ".join(sorted({tables.verdict(gap) for gap in gaps.values()}))
    elif claim["most"]:
        ratio = _value(frame, ours, claim["column"]) / _value(frame, base, claim["column"])
        words = claim["words"].format(ratio=f"{ratio:.2f}")
        holds = float(claim["least"] or 0) <= ratio <= float(claim["most"])
    else:
        scale = float(claim["scale"])
        gap = tables.difference(frame, ours, base, claim["column"], scale)
        values = frame.set_index("title")[claim["column"]]
        shown = {
            "gap": tables.format_interval(gap, 2 if scale > 1 else 3),
            "runs": tables.count_runs(len(gap)),
            "mean": tables.format_interval(values[values.index == ours]),
            "base_mean": tables.format_interval(values[values.index == base]),
        }
        words, holds = claim["words"].format(**shown), tables.verdict(gap, scaled_down)
    return {
        "where": claim["where"],
        "claim": claim["claim"].format(base=base.split(", rate")[0] if scaled_down else base),
        "paper": paper,
        "ours": words,
        "holds?": holds if isinstance(holds, str) else "yes" if holds else "no",
        "set": f"[{claim['set']}]({claim['set']}/README.md)",
    }


def _part(frame: pd.DataFrame, of: str) -> pd.DataFrame:
    """The runs of one setting of a set that has several, each titled."""
    if "name" in frame:  # of bench/cost
        frame = frame.assign(method=frame["name"], problem=frame["setting"])
    if "title" not in frame:
        frame = frame.assign(title=frame["method"])
    if set(SETTING) <= set(frame):
        return frame[frame[SETTING].agg("-".join, axis=1) == of]
    return frame[frame["problem"] == of] if "problem" in frame else frame


def _titles(frame: pd.DataFrame) -> dict[str, str]:
    """Each method's title; of several, the one with the best meta-validation."""
    for metric in ("accuracy", "mse"):
        if f"validation_{metric}" in frame:
            return tables.chosen_titles(frame, metric)
    return dict(zip(frame["method"], frame["title"]))


def _value(frame: pd.DataFrame, title: str, column: str) -> float:
    """The median of a column, or of the lists in it; 1 of no method."""
    values = frame.loc[frame["title"] == title, column]
    if not len(values):
        return 1.0
    return np.median(np.concatenate([np.atleast_1d(json.loads(str(x))) for x in values]))
