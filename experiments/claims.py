"""RESULTS.md's first page: what the paper claims, what we have, and whether it holds.

Figures of the paper are Lee et al.'s (ICLR 2022), Tables 2 to 6. Ours are taken from the sets. A
difference holds where its 95% interval over pairs of runs of one seed leaves 0 on the claim's side.
"""

import numpy as np
import pandas as pd

from experiments.common.tables import format_interval, markdown, mean_interval
from experiments.image_meta.report import settings, tuned

# Accuracy of HyperDistill and of 1-step: Tables 2 and 6.
ACCURACY = {
    "anil-tinyimagenet-reptile": ("56.37 ± 0.27", "53.90 ± 0.43"),
    "warpgrad-cifar100-reptile": ("60.91 ± 0.27", "58.18 ± 0.52"),
    "warpgrad-tinyimagenet-reptile": ("55.04 ± 0.52", "49.97 ± 2.46"),
    "metaweightnet-cifar100-reptile": ("60.82 ± 0.33", "58.45 ± 0.40"),
    "warpgrad-cifar100-fomaml": ("51.43 ± 0.98", "46.03 ± 0.59"),
}
# Seconds of HyperDistill to those of 1-step: Table 3.
SECONDS = {
    "anil-tinyimagenet-reptile": 1.02,
    "warpgrad-cifar100-reptile": 1.26,
    "warpgrad-tinyimagenet-reptile": 1.18,
    "metaweightnet-cifar100-reptile": 0.98,
}


def first_page(sets: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> str:
    """Markdown: a row for each claim.

    Args:
      sets: (runs, series) by "STUDY/SET".
    """
    images = sets["image_meta/cpu"][0]
    rows = [*_accuracies(images), *_seconds(images), _sinusoid(sets["sinusoid/paper"][0])]
    rows += [_standard(sets["standard/cpu"][0]), *_cosines(sets["fidelity/cpu"][0])]
    rows += [_gammas(images), _weighting(sets["image_meta/cpu"][1])]
    rows.append(_convergence(sets["sinusoid/five-seeds"][1]))
    curves = "HyperDistill converges faster than 1-step, images and CIFAR-10"
    nothing = "no curve was kept: run the set again"
    rows.append(_row("Figures 2, 5, 9, 10, 12, 13", curves, "yes (pictures)", "", nothing, ""))
    return markdown(rows)


def _row(where: str, claim: str, paper: str, ours: str, holds: str, link: str) -> dict:
    shown = f"[{link}](#{link.replace('/', '')})" if link else ""
    cells = (where, claim, paper, ours, holds, shown)
    return dict(zip(("where", "claim", "paper", "ours", "holds?", "set"), cells))


def _verdict(differences, sign: int = 1) -> str:
    """Whether a difference is on the claim's side, +1 or -1, and how sure that is."""
    mean, half = mean_interval(differences)
    if np.isnan(mean):
        return "not run"
    if np.isnan(half):
        return "not settled: one run"
    if abs(mean) <= half:
        return "not at this scale: the interval has 0"
    return "yes" if mean * sign > 0 else "no"


def _difference(frame: pd.DataFrame, ours: str, base: str, column: str, scale: float = 1.0):
    """Seed by seed, of two methods named by title."""
    values = {
        title: frame[frame["title"] == title].set_index("seed")[column] for title in (ours, base)
    }
    return (scale * (values[ours] - values[base])).dropna()


def _accuracies(frame: pd.DataFrame):
    for name, rows in settings(frame):
        ours, base = ACCURACY[name]
        difference = _difference(rows, str(tuned(rows)), "1-step", "test_accuracy", 100)
        yield _row(
            "Table 6" if name.endswith("fomaml") else "Table 2",
            f"HyperDistill is more accurate than 1-step, {name}",
            f"{ours} against {base}",
            f"{format_interval(difference, 2)} points more ({len(difference)} runs, preset cpu)",
            _verdict(difference),
            "image_meta/cpu",
        )


def _seconds(frame: pd.DataFrame):
    for name, rows in settings(frame):
        each = rows.groupby("title")["seconds_each"].median()
        if name in SECONDS:
            ratio = each[tuned(rows)] / each["1-step"]
            yield _row(
                "Table 3",
                f"HyperDistill costs hardly more time than 1-step, {name}",
                f"{SECONDS[name]:.2f} times",
                f"{ratio:.2f} times",
                "yes" if ratio <= max(SECONDS.values()) else "no",
                "image_meta/cpu",
            )


def _sinusoid(frame: pd.DataFrame) -> dict:
    difference = _difference(frame, "HyperDistill (γ=0.9)", "1-step", "test_mse")
    return _row(
        "Table 4",
        "HyperDistill has a smaller error than 1-step, sinusoids",
        "0.327 ± 0.052 against 0.670 ± 0.283",
        f"{format_interval(difference)} more ({len(difference)} runs; momentum differentiated)",
        _verdict(difference, -1),
        "sinusoid/paper",
    )


def _standard(frame: pd.DataFrame) -> dict:
    title = frame.loc[frame["method"] == "hyperdistill", "title"].iloc[0]
    difference = _difference(frame, title, "1-step", "test_accuracy", 100)
    return _row(
        "Table 5",
        "HyperDistill is more accurate than 1-step, CIFAR-10 with wrong labels",
        "72.68 ± 1.15 against 70.15 ± 1.24",
        f"{format_interval(difference, 2)} points more ({len(difference)} runs, preset cpu)",
        _verdict(difference),
        "standard/cpu",
    )


def _cosines(frame: pd.DataFrame):
    for problem, rows in frame.groupby("problem"):
        for where, ours, base, claim in (
            (
                "Figure 3",
                "fitted-0.9",
                "one-step",
                "HyperDistill is closer to exact RMD than 1-step",
            ),
            ("Figure 11", "size1-0.99", "size1-0.0", "at π = 1, γ = 0.99 is closer than γ = 0"),
        ):
            values = rows.assign(title=rows["method"])
            difference = _difference(values, ours, base, "cosine_trained")
            yield _row(
                where,
                f"{claim}, {problem}, meta-trained",
                "yes (a picture)",
                f"cosine {format_interval(difference)} more ({len(difference)} runs)",
                _verdict(difference),
                "fidelity/cpu",
            )


def _gammas(frame: pd.DataFrame) -> dict:
    rows = dict(settings(frame))["warpgrad-cifar100-reptile"]
    titles = rows.loc[rows["method"] == "hyperdistill", "title"].drop_duplicates()
    difference = {t: _difference(rows, t, "1-step", "test_accuracy", 100) for t in titles}
    verdicts = {_verdict(values) for values in difference.values()}
    return _row(
        "Figure 6",
        "with every γ HyperDistill is above 1-step, WarpGrad on CIFAR-100",
        "yes (a picture)",
        "; ".join(f"{t}: {format_interval(values, 2)} points" for t, values in difference.items()),
        verdicts.pop() if len(verdicts) == 1 else "; ".join(sorted(verdicts)),
        "image_meta/cpu",
    )


def _weighting(series: pd.DataFrame) -> dict:
    curves = series[series["series"] == "weighting"].groupby(["method", "title"])["y"].mean()
    ours, base = curves["hyperdistill"].mean(), curves["one-step"].mean()
    return _row(
        "Figure 7",
        "HyperDistill's weights of examples are lower than 1-step's",
        "yes (a picture)",
        f"{ours:.2f} against {base:.2f}, means over losses from 0 to 10",
        "yes" if ours < base else "no",
        "image_meta/cpu",
    )


def _convergence(series: pd.DataFrame) -> dict:
    errors = series[series["series"] == "validation_mse"]
    last = errors[errors["x"] == errors["x"].max()].set_index("method")["y"]
    ours, base = last["hyperdistill"], last["one-step"]
    return _row(
        "Figure 8",
        "HyperDistill converges faster than 1-step, sinusoids",
        "yes (a picture)",
        f"median meta-validation error at the end {ours:.2f} against {base:.2f}",
        "yes" if ours < base else "no",
        "sinusoid/five-seeds",
    )
