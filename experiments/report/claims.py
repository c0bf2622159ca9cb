"""What the paper claims, what we have, and whether it holds: claims.md, and RESULTS.md's summary.

Figures of the paper are Lee et al.'s (ICLR 2022), Tables 2 to 6. Ours are taken from the sets. A
difference holds where its 95% interval over pairs of runs of one seed leaves 0 on the claim's side.
"""

import collections
import json
import re

import numpy as np
import pandas as pd

from experiments.draw.tables import (
    chosen_titles,
    count_runs,
    difference,
    format_interval,
    hyperdistill,
    markdown,
    verdict,
    without_rate,
)
from experiments.image_meta.report import READINGS, settings, tuned
from experiments.methods import METHODS
from experiments.sinusoid.report import TABLE_4

# Accuracy: Tables 2 and 6.
ACCURACY = {
    "anil-tinyimagenet-reptile": {
        "hyperdistill": "56.37 ± 0.27",
        "one-step": "53.90 ± 0.43",
        "fo": "53.62 ± 0.06",
        "drmad": "49.84 ± 1.35",
        "nift": "53.76 ± 0.31",
    },
    "warpgrad-cifar100-reptile": {
        "hyperdistill": "60.91 ± 0.27",
        "one-step": "58.18 ± 0.52",
        "fo": "58.16 ± 0.52",
        "drmad": "55.13 ± 0.64",
        "nift": "58.88 ± 0.65",
    },
    "warpgrad-tinyimagenet-reptile": {
        "hyperdistill": "55.04 ± 0.52",
        "one-step": "49.97 ± 2.46",
        "fo": "53.54 ± 0.74",
        "drmad": "50.71 ± 1.16",
        "nift": "50.15 ± 0.98",
    },
    "metaweightnet-cifar100-reptile": {
        "hyperdistill": "60.82 ± 0.33",
        "one-step": "58.45 ± 0.40",
        "drmad": "57.03 ± 0.42",
        "nift": "59.34 ± 0.27",
    },
    "warpgrad-cifar100-fomaml": {
        "hyperdistill": "51.43 ± 0.98",
        "one-step": "46.03 ± 0.59",
        "fo": "45.01 ± 1.29",
    },
}
# The pictures of convergence, by initialisation.
FASTER = {"reptile": "Figures 2, 5", "fomaml": "Figures 12, 13"}
# HyperDistill to 1-step, megabytes: Table 3 (ANIL's are TinyImageNet's, ours CIFAR-100's).
MEMORY = {"anil": 1638 / 1584, "warpgrad": 1714 / 1650}
OURS = "paper-0.9"  # the fidelity study's name for HyperDistill
# The same of seconds, CIFAR-100.
SECONDS = {"anil": 1.02, "warpgrad": 1.26, "metaweightnet": 0.98}


# What each table and figure says.
SAYS = {
    "Table 2": "Reptile: HyperDistill is the most accurate, by 1.5 to 5 points",
    "Table 3": "HyperDistill costs hardly more than 1-step",
    "Table 4": "sinusoids: HyperDistill has the smallest error",
    "Table 5": "standard learning with wrong labels: HyperDistill is the most accurate",
    "Table 6": "FOMAML: HyperDistill is the most accurate, by 5 points",
    "Figure 3": "HyperDistill is closer to exact RMD than 1-step",
    "Figure 4": "the fitted size is near the exact one",
    "Figure 6": "HyperDistill is ahead of 1-step at every γ",
    "Figure 7": "MetaWeightNet: HyperDistill gives lower weights than 1-step",
    "Figure 8": "sinusoids: HyperDistill ends below 1-step",
    "Figure 11": "at a constant size γ = 0.99 is closer than γ = 0",
    "Figures 2, 5": "Reptile: HyperDistill converges faster than 1-step",
    "Figures 9, 10": "standard learning: HyperDistill converges faster",
    "Figures 12, 13": "FOMAML: HyperDistill converges faster",
}
ANSWERS = ("yes", "no", "level", "not at this scale")


def summary(claims: list[dict]) -> str:
    """Markdown: a row for each table and figure of the paper, with how many of its claims hold."""
    rows = []
    for where in dict.fromkeys(claim["where"] for claim in claims):
        of = [claim for claim in claims if claim["where"] == where]
        counts = collections.Counter(claim["holds?"].partition(":")[0] for claim in of)
        scales = dict.fromkeys(claim["set"].partition("]")[0].lstrip("[") for claim in of)
        row = {"where": where, "the paper": SAYS[where], "claims": str(len(of))}
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


def all_claims(sets: dict[str, tuple[pd.DataFrame, pd.DataFrame]], costs: pd.DataFrame):
    """A row for each claim, in the order of the paper.

    Args:
      sets: (runs, series) by "STUDY/SET".
      costs: what `experiments.bench.cost` measured.
    """
    images = sets["image_meta/cpu"][0]
    tuned_runs = sets["image_meta/tuned"][0]
    others, tiny, fomaml = (
        sets[f"image_meta/{name}"][0] for name in ("others", "tinyimagenet", "fomaml")
    )
    own = "preset cpu, each at its own rate of λ"
    rows = [*_accuracies(images, "image_meta/cpu")]
    rows += _accuracies(others, "image_meta/others", "preset cpu, λ's rate 0.005")
    rows += _accuracies(tuned_runs, "image_meta/tuned", own)
    rows += _accuracies(fomaml, "image_meta/fomaml", own)
    rows += _accuracies(tiny, "image_meta/tinyimagenet", f"{own}, chosen on CIFAR-100")
    rows += [*_seconds(costs), *_sinusoids(sets)]
    rows += _standard(sets["standard/cpu"][0])
    grids, readings = (sets[f"fidelity/{name}"][0] for name in ("cpu", "readings"))
    rows += [*_memory(readings), *_closer(readings), *_sizes(readings)]
    rows += _horizons(grids)
    rows += [_gammas(images), _weighting(sets["image_meta/cpu"][1])]
    rows += _faster(tuned_runs, "image_meta/tuned")
    rows += _faster(others[others["init"] == "fomaml"], "image_meta/others")
    rows += [*_faster(fomaml, "image_meta/fomaml"), *_faster(tiny, "image_meta/tinyimagenet")]
    return sorted(rows, key=_place)


def _tally(rows: list[dict]) -> str:
    """How many claims hold, in one line."""
    counts = collections.Counter(row["holds?"].partition(":")[0] for row in rows)
    return f"{len(rows)} claims: " + ", ".join(f"{k} {n}" for k, n in counts.most_common()) + "."


def _place(row: dict) -> tuple[bool, int]:
    """Tables first, then figures, each by its number."""
    number = re.search(r"\d+", row["where"])
    return row["where"].startswith("Figure"), int(number[0]) if number else 0


def _row(where: str, claim: str, paper: str, ours: str, holds: str, link: str) -> dict:
    shown = f"[{link}](experiments/results/{link}/README.md)" if link else ""
    cells = (where, claim, paper, ours, holds, shown)
    return dict(zip(("where", "claim", "paper", "ours", "holds?", "set"), cells))


def _accuracies(frame: pd.DataFrame, link: str, how: str = "preset cpu"):
    for name, rows in settings(frame):
        paper, chosen = ACCURACY[name], chosen_titles(rows, "validation_accuracy")
        for base in ("one-step", "fo", "drmad", "nift"):
            title = chosen.get(base, chosen.get(f"{base}-momentum"))
            if base not in paper:
                continue
            table = "Table 6" if name.endswith("fomaml") else "Table 2"
            figures = f"{paper['hyperdistill']} against {paper[base]}"
            if title is None:
                if how == "preset cpu":
                    label = without_rate(METHODS[base].label)
                    claim = f"HyperDistill is more accurate than {label}, {name}"
                    yield _row(table, claim, figures, "", "not run", "")
                continue
            gap = difference(rows, str(tuned(rows)), title, "test_accuracy", 100)
            yield _row(
                table,
                f"HyperDistill is more accurate than {without_rate(title)}, {name}",
                figures,
                f"{format_interval(gap, 2)} points more ({count_runs(len(gap))}, {how})",
                verdict(gap),
                link,
            )


def _faster(frame: pd.DataFrame, link: str):
    for name, rows in settings(frame):
        base = chosen_titles(rows, "validation_accuracy")["one-step"]
        gap = difference(rows, str(tuned(rows)), base, "validation_mean", 100)
        yield _row(
            FASTER[name.rsplit("-", 1)[1]],
            f"HyperDistill converges faster than 1-step, {name}",
            "yes (pictures)",
            f"{format_interval(gap, 2)} points more, mean of the meta-validations on the way "
            f"({count_runs(len(gap))}, preset cpu)",
            verdict(gap),
            link,
        )


def _seconds(costs: pd.DataFrame):
    for model, paper in SECONDS.items():
        each = costs[costs["setting"] == model].set_index("name")["seconds"]
        ratio = each["hyperdistill"] / each["one-step"]
        yield _row(
            "Table 3",
            f"HyperDistill costs hardly more time than 1-step (at most 1.3 times), {model}",
            f"{paper:.2f} times",
            f"{ratio:.2f} times (preset cpu, its fits shared out)",
            "yes" if ratio <= 1.3 else "no",
            "bench/cost",
        )


def _sinusoids(sets):
    """The sinusoid study at each number of outer points, which the paper does not give."""
    for points in (10, 20, 100):
        name = f"sinusoid/points-{points}"
        frame, _ = sets[name]
        chosen = chosen_titles(frame, "validation_mse", -1)
        ours = chosen["hyperdistill"]
        for method in ("one-step", "fo", "drmad", "nift"):
            base = chosen[method]
            gap = difference(frame, base, ours, "test_mse")
            yield _row(
                "Table 4",
                f"HyperDistill has a smaller error than {base}, sinusoids, {points} outer points",
                f"{TABLE_4['hyperdistill']} against {TABLE_4[method]}",
                f"{_mean(frame, ours)} against {_mean(frame, base)}: {format_interval(gap)} less "
                f"({count_runs(len(gap))})",
                verdict(gap, scaled_down=False),
                name,
            )
        gap = difference(frame, chosen["one-step"], ours, "validation_mse")
        yield _row(
            "Figure 8",
            f"HyperDistill's meta-validation error ends below 1-step's, {points} outer points",
            "yes (a picture)",
            f"{format_interval(gap)} less ({count_runs(len(gap))})",
            verdict(gap, scaled_down=False),
            name,
        )


def _mean(frame: pd.DataFrame, title: str) -> str:
    return format_interval(frame.loc[frame["title"] == title, "test_mse"].dropna())


def _standard(frame: pd.DataFrame):
    titles = dict(zip(frame["method"], frame["title"]))  # of one γ
    ours = str(hyperdistill(titles))
    for base, paper in (("one-step", "70.15 ± 1.24"), ("nift", "70.85 ± 0.63")):
        gap = difference(frame, ours, titles[base], "test_accuracy", 100)
        yield _row(
            "Table 5",
            f"HyperDistill is more accurate than {titles[base]}, CIFAR-10 with wrong labels",
            f"72.68 ± 1.15 against {paper}",
            f"{format_interval(gap, 2)} points more ({count_runs(len(gap))}, preset cpu)",
            verdict(gap),
            "standard/cpu",
        )
    gap = difference(frame, ours, titles["one-step"], "learning_mean", 100)
    yield _row(
        "Figures 9, 10",
        "HyperDistill converges faster than 1-step, CIFAR-10 with wrong labels",
        "yes (pictures)",
        f"{format_interval(gap, 2)} points more, mean of the first stage's tests "
        f"({count_runs(len(gap))}, preset cpu)",
        verdict(gap),
        "standard/cpu",
    )


def _closer(frame: pd.DataFrame):
    claim = "HyperDistill is closer to exact RMD than 1-step"
    return _cosines(frame, "Figure 3", claim, OURS, "one-step", "fidelity/readings")


def _horizons(frame: pd.DataFrame):
    claim = "at π = 1, γ = 0.99 is closer than γ = 0"
    return _cosines(frame, "Figure 11", claim, "size1-0.99", "size1-0.0", "fidelity/cpu")


def _cosines(frame: pd.DataFrame, where: str, claim: str, ours: str, base: str, link: str):
    for problem, rows in frame.groupby("problem"):
        gap = difference(rows.assign(title=rows["method"]), ours, base, "cosine_trained")
        yield _row(
            where,
            f"{claim}, {problem}, meta-trained",
            "yes (a picture)",
            f"cosine {format_interval(gap)} more ({count_runs(len(gap))})",
            verdict(gap),
            link,
        )


def _memory(frame: pd.DataFrame):
    for problem, rows in frame[frame["problem"].isin(list(MEMORY))].groupby("problem"):
        memory = rows.groupby("method")["memory"].median()
        ratio = memory[OURS] / memory["one-step"]
        yield _row(
            "Table 3",
            f"HyperDistill needs hardly more memory than 1-step (at most 1.1 times), {problem}",
            f"{MEMORY[str(problem)]:.2f} times",
            f"{ratio:.2f} times (of the compiled program, T = 50)",
            "yes" if ratio <= 1.1 else "no",
            "fidelity/readings",
        )


def _sizes(frame: pd.DataFrame):
    for problem, rows in frame[frame["method"] == OURS].groupby("problem"):
        ratio = np.median(np.concatenate([json.loads(x) for x in rows["second_order_ratios"]]))
        yield _row(
            "Figure 4",
            f"the fitted size is within a factor of 2 of the exact one, {problem}, meta-trained",
            "yes (a picture)",
            f"‖g^SO‖ is {ratio:.2f} times the exact one's (median over t)",
            "yes" if 0.5 <= ratio <= 2 else "no",
            "fidelity/readings",
        )


def _gammas(frame: pd.DataFrame) -> dict:
    rows = dict(settings(frame))["warpgrad-cifar100-reptile"]
    titles = rows.loc[rows["method"].isin(READINGS), "title"].drop_duplicates()
    gaps = {t: difference(rows, t, "1-step", "test_accuracy", 100) for t in titles}
    verdicts = {verdict(values) for values in gaps.values()}
    return _row(
        "Figure 6",
        "with every γ HyperDistill is above 1-step, WarpGrad on CIFAR-100",
        "yes (a picture)",
        "; ".join(f"{t}: {format_interval(values, 2)} points" for t, values in gaps.items()),
        verdicts.pop() if len(verdicts) == 1 else "; ".join(sorted(verdicts)),
        "image_meta/cpu",
    )


def _weighting(series: pd.DataFrame) -> dict:
    curves = series[series["series"] == "weighting"].groupby(["method", "title"])["y"].mean()
    ours, base = curves["hyperdistill-momentum"].mean(), curves["one-step"].mean()
    return _row(
        "Figure 7",
        "HyperDistill's weights of examples are lower than 1-step's",
        "yes (a picture)",
        f"{ours:.2f} against {base:.2f}, means over losses from 0 to 10",
        "yes" if ours < base else "no",
        "image_meta/cpu",
    )
