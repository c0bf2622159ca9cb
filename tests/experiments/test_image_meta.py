"""The image study: protocols, images, a smoke run, the same seed twice, its tables and plots."""

import dataclasses
import json
import os
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from experiments.draw.plots import training_rows
from experiments.draw.runs import read_runs
from experiments.draw.sets import to_frame, write_set
from experiments.image_meta import report
from experiments.image_meta.__main__ import Config, main
from experiments.image_meta.presets import PRESETS, protocol
from experiments.image_meta.report import table
from experiments.image_meta.setting import (
    MODELS,
    class_images,
    hyper_schedule,
    make_hyper_optimizer,
)
from experiments.methods import METHODS
from experiments.run.cpu import SHORT_LOOPS, keep_short_loops
from experiments.run.images import WAYS
from hdistill.data.augment import shrink
from hdistill.data.pool import Pool
from hdistill.training import Run, RunFolder
from tests.problems import quadratic

pytestmark = pytest.mark.filterwarnings("ignore::hdistill.ZeroHypergradientWarning")


@pytest.fixture(autouse=True)
def flags_as_before(monkeypatch):
    """`main` sets a flag, which the processes of other tests would inherit."""
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))


def test_paper_preset_is_section_5():
    for model in ("anil", "warpgrad"):
        paper = protocol("paper", model)
        assert (paper.horizon, paper.batch, paper.meta_batch, paper.every) == (100, 100, 4, 2)
        assert (paper.inner_optimisations, paper.fit_period, paper.test_tasks) == (1000, 50, 500)
        assert (paper.inner_rate, paper.hyper_rate, paper.corruption) == (0.01, 0.001, 0.0)
        assert (paper.image_size, paper.channels, paper.pad, paper.size) == (32, 32, 4, "fit")
        assert paper.gammas == (0.9, 0.99, 0.999, 0.9999) and len(paper.seeds) == 5
    weighting = protocol("paper", "metaweightnet")
    assert (weighting.inner_rate, weighting.hyper_rate) == (0.1, 0.01)
    assert (weighting.corruption, weighting.size) == (0.4, 1.0)
    assert weighting.reptile_rate == paper.reptile_rate == 1.0
    assert PRESETS["cpu"].horizon >= 50


@pytest.mark.parametrize(
    "before, after",
    [
        ("", SHORT_LOOPS),
        ("--one=1", f"--one=1 {SHORT_LOOPS}"),
        ("--xla_backend_extra_options=mine", "--xla_backend_extra_options=mine"),
        ("a-file", "a-file"),
    ],
)
def test_flags_that_are_set_stay(before, after, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", before)
    keep_short_loops()
    assert os.environ["XLA_FLAGS"] == after


def test_images_are_averaged_down_and_split_by_class(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 32, 32, 3)).astype(np.uint8)
    Pool(images, np.repeat(np.arange(100), 2), tuple(map(str, range(100)))).save(
        tmp_path / "cifar100.npz"
    )
    pools = class_images("cifar100", PRESETS["cpu"].image_size, tmp_path)
    assert {part: x.shape[:2] for part, x in pools.items()} == {
        "train": (50, 2),
        "validation": (20, 2),
        "test": (30, 2),
    }
    square = images[2 * 70 + 1, 4:6, 6:8].reshape(4, 3).astype(float).mean(0)
    np.testing.assert_array_equal(pools["test"][0, 1, 2, 3], np.rint(square))
    with pytest.raises(ValueError, match=r"size=12.*divisor.*32"):
        shrink(images, 12)


@pytest.mark.parametrize("name", MODELS)
def test_every_preset_s_images_are_large_enough_for_the_model(name):
    for preset_name in ("smoke", "cpu", "paper"):
        preset = protocol(preset_name, name)
        model = MODELS[name](WAYS, preset.channels)
        shape = 2, preset.image_size, preset.image_size, 3
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    with pytest.raises(ValueError, match="expected at least 2x2 pixels"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 4, 4, 3)))


def test_hyper_rate_falls_to_zero_over_the_run():
    """λ of the smoke run moves 3·2 times; after as many updates the rate is 0."""
    preset = protocol("smoke", "metaweightnet")
    arguments = dict(zip(("terms", "last"), preset.neumann)) | {"every": 2, "hyper_rate": 0.01}
    problem = quadratic().problem
    setting = types.SimpleNamespace(problem=problem, momentum_free=problem, horizon=4)
    for name, moves in {"one-step": 2, "nift": 2, "drmad": 1, "rmd-every": 1}.items():
        method = METHODS[name].adapted(arguments)
        schedule = hyper_schedule(preset, method, method.estimator(setting))
        rates = [float(schedule(step)) for step in range(3 * moves + 1)]
        np.testing.assert_allclose(rates, np.linspace(0.01, 0, 3 * moves + 1), atol=1e-8)


def test_adam_on_the_hparams_keeps_its_rate():
    preset = dataclasses.replace(protocol("smoke", "warpgrad"), hyper_optimizer="adam")
    method = METHODS["rmd-every"].adapted({"every": 2, "hyper_rate": 0.01})
    adam = make_hyper_optimizer(preset, method, None)
    state = adam.init(jnp.ones(2))
    for _ in range(50):  # a constant gradient moves every entry by the rate
        update, state = adam.update(jnp.array([3.0, -2.0]), state)
    np.testing.assert_allclose(update, [-0.01, 0.01], rtol=1e-5)


SMOKE = Config(preset="smoke", model="metaweightnet", method="one-step")


def test_smoke_run_leaves_what_it_should(tmp_path, capsys):
    main(dataclasses.replace(SMOKE, out=tmp_path))
    assert "1-step" in capsys.readouterr().out
    name = "metaweightnet-cifar100-reptile"
    for file in ("README.md", f"{name}-learning.svg", f"{name}-weighting.svg"):
        assert (tmp_path / "report" / file).stat().st_size > 0
    run = tmp_path / name / "one-step" / "seed-0"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["diverged"] is None and 0 <= summary["test_accuracy"] <= 1
    assert summary["products"] == 3 * 2 and summary["packages"]["jax"] == jax.__version__
    curves = json.loads((run / "weighting.json").read_text())
    assert all(0.1 <= weight <= 1 for name in ("before", "after") for weight in curves[name])
    assert curves["before"] != curves["after"]
    (ended,) = read_runs(tmp_path)
    assert ["validation_accuracy" in row for row in ended.rows] == [False, True, True]
    mean = np.mean([row["validation_accuracy"] for row in ended.rows[1:]])
    np.testing.assert_allclose(to_frame([ended], report.MEANS)["validation_mean"], [mean])
    main(dataclasses.replace(SMOKE, out=tmp_path))  # afresh: the same again
    (again,) = read_runs(tmp_path)
    assert again.summary["test_accuracy"] == ended.summary["test_accuracy"]
    for row, other in zip(again.rows, ended.rows, strict=True):
        assert row | {"seconds": 0} == other | {"seconds": 0}
    config = json.loads((run / "config.json").read_text())
    assert config["corruption"] == 0.4 and config["model"] == "metaweightnet"


def runs_frame(*runs):
    """A set of runs of one setting: (method, title, seed, test accuracy, validation accuracy)."""
    rows = []
    for method, title, seed, test, validation in runs:
        row = {"model": "warpgrad", "dataset": "cifar100", "init": "reptile", "method": method}
        row |= {"title": title, "seed": seed, "commit": "abc"}
        row |= {"argument.hyper_rate": 0.01, "argument.gamma": 0.9}
        row |= {"test_accuracy": test, "validation_accuracy": validation, "products": 50}
        row |= {"inner_optimisations_done": 2, "seconds": 3.0, "seconds_each": 1.5}
        rows.append(row)
    return pd.DataFrame(rows)


def test_table_compares_seed_by_seed_and_chooses_gamma_by_validation():
    frame = runs_frame(
        *[("one-step", "1-step", s, 0.4 + 0.1 * s, 0.4) for s in (0, 1)],
        *[("hyperdistill", "A", s, 0.42 + 0.1 * s, 0.3) for s in (0, 1)],
        ("hyperdistill", "B", 0, 0.3, 0.5),
        ("hyperdistill", "B", 1, None, None),
    )
    text = table(frame)  # the other's lost run counts against it
    assert "| A, chosen | 47.00 ± 63.53 | 30.00 ± 0.00 | 2.00 ± 0.00 | 0 of 2 | 0.01 | 25.0" in text
    assert "| B | 30.00 | 50.00 | -10.00 | 1 of 2 | 0.01 |" in text
    assert "seeds 0 to 1" in text


def test_runs_that_diverged_do_not_stop_the_curves(tmp_path):
    def run(method, diverged, rows):
        config = {"title": method.upper(), "method": method, "seed": 0}
        rows = [{"step": m, "validation_accuracy": 0.1 * m} for m in range(1, rows + 1)]
        return Run(tmp_path, config, {"diverged": diverged}, rows)

    runs = [
        run("fo", "loss is nan", 0),
        run("one-step", None, 3),
        run("one-step", "loss is nan", 1),
        run("greedy", None, 0),
    ]
    drawn = pd.DataFrame(training_rows(runs, "validation_accuracy", "setting"))
    assert list(drawn["x"]) == [1, 2, 3] and set(drawn["title"]) == {"ONE-STEP"}
    np.testing.assert_allclose(drawn["y"], [0.1, 0.2, 0.3])


def test_a_run_counts_once_and_where_it_belongs(tmp_path, capsys):
    config = {"model": "anil", "dataset": "cifar100", "init": "reptile", "method": "fo", "seed": 0}
    out = tmp_path / "anil-cifar100-reptile"
    with RunFolder(out / "fo" / "seed-0", config) as folder:
        folder.finish({"test_accuracy": 0.5})
    for copy in (
        out / "fo" / "seed-1",
        out / "fo-2" / "seed-0",
        tmp_path / "old" / "fo" / "seed-0",
    ):
        shutil.copytree(out / "fo" / "seed-0", copy)
    assert [run.path for run in read_runs(tmp_path)] == [out / "fo" / "seed-0"]
    assert capsys.readouterr().err.count("left out of the report") == 3


def test_report_of_nothing(tmp_path):
    assert write_set(report, tmp_path, "image_meta") == "no run has ended\n"
