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

from experiments.draw.sets import paper_figures
from experiments.draw.tables import (
    chosen_titles,
    count_runs,
    difference,
    format_interval,
    markdown,
    verdict,
    without_rate,
)
from experiments.image_meta.report import SETTING

ANSWERS = ("yes", "no", "level", "not at this scale")


def summary(claims: list[dict], says: dict[str, str]) -> str:
    """Markdown: a row for each table and figure of the paper, with how many of its claims hold."""
    rows = []
    for where in dict.fromkeys(claim["where"] for claim in claims):
        of = [claim for claim in claims if claim["where"] == where]
        counts = collections.Counter(claim["holds?"].partition(":")[0] for claim in of)
        scales = dict.fromkeys(claim["set"].partition("]")[0].lstrip("[") for claim in of)
        row = {"where": where, "the paper": says[where], "claims": str(len(of))}
        row |= {answer: str(counts.pop(answer, "")) for answer in ANSWERS}
        row["other"] = ", ".join(f"{k} {n}" for k, n in counts.items())
        rows.append(row | {"ours": ", ".join(scales)})
    rows = [{k: v for k, v in row.items() if any(r[k] for r in rows)} for row in rows]
    text = f"{_tally(claims)} Each, with its interval: [claims](experiments/results/claims.md). "
    text += '"Not at this scale": the 95% interval of a scaled-down run has 0 in it.'
    return f"{text}\n\n{markdown(rows)}"


def claims_table(claims: list[dict]) -> str:
    """Markdown: how many claims hold, and a row for each."""
    return f"{_tally(claims)}\n\n{markdown(claims)}"


def _tally(rows: list[dict]) -> str:
    """Counts the claims that hold, in one line."""
    counts = collections.Counter(row["holds?"].partition(":")[0] for row in rows)
    return f"{len(rows)} claims: " + ", ".join(f"{k} {n}" for k, n in counts.most_common()) + "."


def judge(claim: dict, frame: pd.DataFrame, series: pd.DataFrame) -> dict:
    """A claim's row in claims.md.

    Args:
      claim: a row of claims.csv.
      frame, series: the runs and the series of its set.
    """
    frame = _part(frame, claim["of"])
    titles, scaled_down = _titles(frame), not claim["set"].startswith("sinusoid")
    ours, base = (_title(titles, claim[name]) for name in ("ours", "base"))
    if claim["column"] == "weighting":
        words, holds = _weights(claim, series)
    elif claim["words"] == "every γ":
        words, holds = _every_gamma(frame, base)
    elif claim["most"]:
        ratio = _value(frame, ours, claim["column"]) / _value(frame, base, claim["column"])
        words = claim["words"].format(ratio=f"{ratio:.2f}")
        bounds = float(claim["least"] or 0), float(claim["most"])
        holds = "yes" if bounds[0] <= ratio <= bounds[1] else "no"
    else:
        scale = float(claim["scale"])
        gap = difference(frame, ours, base, claim["column"], scale)
        shown = {"gap": format_interval(gap, 2 if scale > 1 else 3), "runs": count_runs(len(gap))}
        for name, title in (("mean", ours), ("base_mean", base)):
            shown[name] = format_interval(frame.loc[frame["title"] == title, claim["column"]])
        words = claim["words"].format(**shown)
        holds = verdict(gap, scaled_down)
    paper = claim["paper"]
    if paper == "figures":
        figures = paper_figures(claim["where"])[claim["of"]]
        paper = f"{figures[claim['ours']]} against {figures[claim['base']]}"
    link = f"[{claim['set']}](experiments/results/{claim['set']}/README.md)"
    said = claim["claim"].format(base=without_rate(base) if scaled_down else base)
    cells = (claim["where"], said, paper, words, holds, link)
    return dict(zip(("where", "claim", "paper", "ours", "holds?", "set"), cells))


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
    for column, sign in (("validation_accuracy", 1), ("validation_mse", -1)):
        if column in frame:
            return chosen_titles(frame, column, sign)
    return dict(zip(frame["method"], frame["title"]))


def _title(titles: dict[str, str], method: str) -> str:
    return titles.get(method, titles.get(f"{method}-momentum", ""))


def _value(frame: pd.DataFrame, title: str, column: str) -> float:
    """The median of a column, or of the lists in it; 1 of no method."""
    values = frame.loc[frame["title"] == title, column]
    if not len(values):
        return 1.0
    return np.median(np.concatenate([np.atleast_1d(json.loads(str(x))) for x in values]))


def _every_gamma(frame: pd.DataFrame, base: str) -> tuple[str, str]:
    versions = frame.loc[frame["method"].str.startswith("hyperdistill"), "title"].unique()
    gaps = {title: difference(frame, title, base, "test_accuracy", 100) for title in versions}
    words = "; ".join(f"{t}: {format_interval(gap, 2)} points" for t, gap in gaps.items())
    return words, "; ".join(sorted({verdict(gap) for gap in gaps.values()}))


def _weights(claim: dict, series: pd.DataFrame) -> tuple[str, str]:
    curves = series[series["series"] == "weighting"].groupby(["method", "title"])["y"].mean()
    ours, base = (curves[claim[name]].mean() for name in ("ours", "base"))
    return claim["words"].format(ours=ours, base=base), "yes" if ours < base else "no"
