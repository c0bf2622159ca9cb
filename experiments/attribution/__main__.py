"""Which examples made a prediction: how well each method's scores foretell retrainings.

    python -m experiments.attribution --preset smoke                    generated data
    python -m experiments.attribution.data data                         the data sets, once
    python -m experiments.attribution --dataset digits mnist mnist1d --data-dir data
    python -m experiments.attribution --preset smoothness --dataset digits --data-dir data

For each seed a network is trained on weighted examples; each method gives the derivative of each
query's loss in each weight; the network is trained again without 1%, 5%, 20% of the examples, a
hundred times each; the score is the linear datamodelling score (`hd.lds`). Each run has a folder
OUT/DATASET/seed-S; OUT/report gets the table, the pictures and their data.
"""

import dataclasses
import functools
import json
import pathlib
import sys
import time
import warnings
from typing import Literal

import jax
import numpy as np

import hdistill as hd
from experiments.attribution import report
from experiments.attribution.data import NAMES, load
from experiments.attribution.presets import PRESETS, Preset, Recipe
from experiments.attribution.setting import Setting, make_setting, memory, methods
from experiments.draw.sets import open_out, write_set
from experiments.run.command import Command, run_command
from experiments.run.study import numerics
from hdistill.checks.values import check_choice
from hdistill.progress import Progress
from hdistill.training import RunFolder


@dataclasses.dataclass(frozen=True)
class Config(Command):
    """The command line.

    Attributes:
      dataset: "digits", "mnist", "mnist1d", each a run.
      preset: the protocol.
      data_dir: folder of the data sets.
    """

    dataset: tuple[str, ...] = ("digits",)
    preset: Literal["smoke", "cpu", "smoothness", "rough"] = "cpu"
    data_dir: pathlib.Path = pathlib.Path("data")
    out: pathlib.Path = pathlib.Path("runs/attribution")


def left_out(preset: Preset, fraction: float, examples: int) -> np.ndarray:
    """bool [R, N]: the examples that each retraining goes without, the same for every seed."""
    rng = np.random.default_rng(int(1e4 * fraction))
    count = max(1, round(fraction * examples))
    rows = [rng.choice(examples, count, replace=False) for _ in range(preset.retrainings)]
    return np.stack([np.isin(np.arange(examples), row) for row in rows])


def measure(setting: Setting, preset: Preset, recipe: Recipe, bar: Progress) -> dict:
    """Scores of every method, retrainings, and what they foretell of these."""
    arguments = setting.problem, setting.hparams, setting.weights, setting.batches
    truth: dict[float, tuple] = {}
    horizon = recipe.horizon
    start = time.perf_counter()
    for fraction in preset.fractions:
        gone = left_out(preset, fraction, len(setting.hparams))
        losses = hd.leave_out(*arguments, gone, setting.queries, horizon=horizon)
        truth[fraction] = gone, np.asarray(losses)
        bar.advance()
    training = (time.perf_counter() - start) / preset.retrainings / len(preset.fractions)
    one = jax.tree.map(lambda x: x[0], setting.queries)
    report = hd.diagnose(*arguments, one, key=jax.random.key(7), cheaper={}, horizon=horizon)
    bar.advance({"smoothness": f"{report.smoothness:.3f}"})
    rows = []
    for name, method in methods(recipe).items():
        if preset.only_exact and name != "exact":
            continue
        attribute = functools.partial(
            hd.influence, *arguments, setting.queries, method=method, horizon=horizon
        )
        attribute()  # compiles
        start = time.perf_counter()
        scores = jax.block_until_ready(attribute())
        seconds = (time.perf_counter() - start) / preset.queries / training
        for fraction, (gone, measured) in truth.items():
            score = hd.lds(scores, gone, measured)
            row = {"attribution": name, "fraction": fraction, "lds": score.mean}
            row |= {"half_width": score.half_width, "trainings_a_query": seconds}
            rows.append(row | {"memory": memory(setting, name, recipe)})
        bar.advance({name: f"{rows[-1]['lds']:.3f}"})
    return {"smoothness": report.smoothness, "predicted": report.predicted, "rows": rows}


def run(data, preset: Preset, seed: int, folder: RunFolder) -> None:
    """Measures each recipe; a recipe that was measured before a kill is not measured again."""
    found = json.loads(folder.read("recipes.json") or "[]")
    for recipe in preset.recipes[len(found) :]:
        setting = make_setting(data, preset, recipe, seed)
        count = 1 if preset.only_exact else len(methods(recipe))
        bar = Progress(len(preset.fractions) + 1 + count, label=recipe.name)
        with bar, warnings.catch_warnings(action="ignore", category=hd.NonFiniteWarning):
            found.append({"recipe": recipe.name} | measure(setting, preset, recipe, bar))
        folder.write("recipes.json", json.dumps(found))
    folder.finish({"recipes": len(found)})


def main(config: Config) -> None:
    """Runs what the command line asks for, then writes and prints the report."""
    preset = PRESETS[config.preset]
    datasets = ("generated",) if config.preset == "smoke" else config.dataset
    for name in datasets:
        check_choice("dataset", name, (*NAMES, "generated"))
    open_out(config.out, "attribution")
    for name in datasets:
        data = load(name, config.data_dir)
        for seed in config.seed or preset.seeds:
            protocol = json.loads(json.dumps(dataclasses.asdict(preset)))
            protocol = {k: v for k, v in protocol.items() if k != "seeds"}
            place = {"study": "attribution", "problem": name, "preset": config.preset, "seed": seed}
            path = config.out / name / f"seed-{seed}"
            config_of_run = place | protocol | {"numerics": numerics()}
            with RunFolder(path, config_of_run, **config.how) as folder:
                if folder.summary is None:
                    run(data, preset, seed, folder)
                    print(f"{name}, seed {seed}: measured", file=sys.stderr)
    print(write_set(report, config.out, "attribution"))


if __name__ == "__main__":
    run_command(Config, main, __doc__)
