"""The sinusoid study: tasks, model, a smoke run and what it leaves, the registry of methods."""

import collections
import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from experiments.draw.tables import format_interval, mean_interval
from experiments.image_meta.presets import PRESETS as IMAGE_PRESETS
from experiments.methods import METHODS, chosen
from experiments.run import lanes, side_by_side
from experiments.run.command import run_command
from experiments.run.study import keys_of, run, run_method
from experiments.sinusoid import report
from experiments.sinusoid.__main__ import Config, main
from experiments.sinusoid.presets import PRESETS
from experiments.sinusoid.setting import make_setting
from hdistill.data.sinusoid import sample_curves, sample_tasks
from hdistill.models.anil_regression import AnilRegression
from hdistill.training import RunFolder, read_run


@pytest.fixture(scope="module")
def smoke():
    """The sinusoid study's setting under preset smoke."""
    return make_setting("smoke")


def test_tasks_are_sinusoids_in_the_paper_s_ranges():
    curves = sample_curves(jax.random.key(0), 5000)
    for values, low, high in [(curves.amplitude, 0.1, 5.0), (curves.phase, 0.0, np.pi)]:
        assert low <= values.min() < low + 0.01 and high - 0.01 < values.max() <= high
        np.testing.assert_allclose(values.mean(), (low + high) / 2, rtol=0.03)
    inner, outer = sample_tasks(jax.random.key(1), 50, shots=10)
    for points in (inner, outer):
        assert points.x.shape == points.y.shape == (50, 10, 1)
        assert np.abs(points.x).max() <= 5 and np.abs(points.x).max() > 4.9
    assert not np.isin(inner.x, outer.x).any()
    # Both halves are of one curve: y = A sin(x - p) is linear in (sin x, cos x), 20 points, rank 2.
    for i in range(50):
        x = np.concatenate([inner.x[i, :, 0], outer.x[i, :, 0]])
        y = np.concatenate([inner.y[i, :, 0], outer.y[i, :, 0]])
        basis = np.stack([np.sin(x), np.cos(x)], 1)
        assert np.abs(basis @ np.linalg.lstsq(basis, y)[0] - y).max() < 1e-6


def test_model_splits_features_from_head():
    model = AnilRegression()
    x = jnp.linspace(-5, 5, 7)[:, None]
    hparams, params = model.init(jax.random.key(0), x)

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    assert count(hparams) == 2 * 100 + 2 * (100 * 100 + 100) and count(params) == 101
    hidden = x
    for i in range(3):
        layer = hparams["params"][f"Dense_{i}"]
        bound = 1 / np.sqrt(hidden.shape[1])
        for leaf in layer.values():
            assert np.abs(leaf).max() <= bound and np.abs(leaf).max() > 0.9 * bound
        hidden = np.maximum(hidden @ layer["kernel"] + layer["bias"][None], 0)
    head = params["params"]["Dense_0"]
    expected = hidden @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(model.apply(params, hparams, x), expected, rtol=1e-5, atol=1e-6)


def test_paper_preset_is_appendix_g():
    preset = PRESETS["paper"]
    assert (preset.horizon, preset.inner_optimisations, preset.meta_batch) == (30, 30, 10)
    assert (preset.shots, preset.test_tasks, len(preset.seeds)) == (10, 1000, 5)
    assert (preset.inner_rate, preset.momentum, preset.hyper_rate) == (0.01, 0.9, 1e-3)
    assert preset.neumann == (5, 6)


def test_smoke_study_leaves_what_it_should(tmp_path, capsys):
    config = Config(preset="smoke", out=tmp_path)
    main(dataclasses.replace(config, method="hyperdistill"))
    printed = capsys.readouterr().out
    assert "HyperDistill (γ=0.9)" in printed and "0.327" not in printed
    for name in ("README.md", "runs.csv", "series.csv", "learning.svg"):
        assert (tmp_path / "report" / name).stat().st_size > 0
    run = tmp_path / "hyperdistill-gamma0.9" / "seed-0"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["products"] for row in rows] == [5 + 14, 5, 5, 5]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["products"] == 34 and 0 < summary["test_mse"] < 10
    assert summary["diverged"] is None and summary["packages"]["jax"] == jax.__version__
    # Run again with --resume: nothing is done again, and the table is the same.
    stamp = (run / "summary.json").stat().st_mtime_ns
    main(dataclasses.replace(config, method="hyperdistill", resume=True))
    assert (run / "summary.json").stat().st_mtime_ns == stamp
    assert capsys.readouterr().out == printed
    config_file = run / "config.json"
    written = json.loads(config_file.read_text())
    fitted = {"gamma": 0.9, "size": "fit", "fit_period": 50}
    paper = {"hyper_rate": 1e-3, "surrogate": True, "mixing": "aligned"}
    assert written["arguments"] == fitted | paper
    config_file.write_text(json.dumps(written | {"horizon": 6}))
    with pytest.raises(ValueError, match=r"another protocol \(horizon=6 there, 5 now\)"):
        main(dataclasses.replace(config, method="hyperdistill", resume=True))
    with pytest.raises(ValueError, match=r"config.json is damaged or gone"):
        read_run(run)


@pytest.mark.parametrize("presets", [PRESETS, IMAGE_PRESETS])
def test_anchors_fit_every_preset_s_horizon(presets):
    for preset in presets.values():
        bent = METHODS["drmad-bent"].adapted(preset.arguments("drmad-bent"))
        assert 1 <= bent.arguments["anchors"] <= preset.horizon


def test_a_run_that_diverges_says_so_in_its_summary(tmp_path, smoke):
    def poisoned(key):
        hparams, weights = smoke.start(key)
        return hparams, jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), weights)

    learner = smoke.learner(METHODS["fo"])
    with RunFolder(tmp_path, {}) as folder:
        summary = run(smoke._replace(start=poisoned), learner, keys_of(0), folder, "FO")
    assert summary["test_mse"] is None
    assert "outer loss is nan at inner step 1 of inner optimisation 1" in summary["diverged"]
    assert "none yet" in summary["diverged"]


def test_intervals():
    mean, half = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    np.testing.assert_allclose(half, 3.182446 * np.sqrt(5 / 3) / 2, rtol=1e-6)
    assert format_interval([0.5]) == "0.500"
    assert format_interval([1e7, 3e7]) == "2.0e+07 ± 1.3e+08"


def test_every_method_says_what_it_was_run_with():
    def arguments(name):
        return {"fit_period": 7, "last": 3, "every": 2, "hyper_rate": {"fo": 0.1}.get(name)}

    methods = chosen("all", METHODS, arguments, (0.5, 0.9), {})
    assert len({method.folder for method in methods}) == len(methods) == len(METHODS) + 2
    by_folder = {method.folder: method for method in methods}
    assert by_folder["fo"].arguments == {"hyper_rate": 0.1}
    robust = {"gamma": 0.6, "memory": 0.65, "trust": 0.9}
    robust |= {"fit_schedule": "doubling", "hyper_rate": None}
    assert by_folder["robust"].arguments == robust
    schedule = by_folder["robust"].learner_arguments["fit_period"]
    assert [m for m in range(1, 20) if schedule(m)] == [1, 2, 4, 8, 16]
    half = by_folder["hyperdistill-momentum-gamma0.5"]
    fitted = {"gamma": 0.5, "size": "fit", "fit_period": 7}
    assert half.arguments == fitted | {"hyper_rate": None}
    half = by_folder["hyperdistill-gamma0.5"]
    paper = {"surrogate": True, "mixing": "aligned", "hyper_rate": None}
    assert half.arguments == fitted | paper
    assert half.label == "HyperDistill (γ=0.5)" and half.learner_arguments == {"fit_period": 7}
    assert by_folder["nift"].label == "N.IFT(5, 3)"
    assert by_folder["rmd-every"].learner_arguments == {"every": 2}
    first, second = chosen("fo", METHODS, arguments, (), {"hyper_rate": (0.1, 0.2)})
    assert (first.folder, second.label) == ("fo-hyper_rate0.1", "FO, rate 0.2")
    low, high = chosen("robust", METHODS, arguments, (), {"gamma": (0.5, 0.7)})
    assert (low.folder, high.label) == ("robust-gamma0.5", "Robust HyperDistill (γ=0.7)")
    assert len(chosen("all", METHODS, arguments, (0.5, 0.9), {"gamma": (0.3,)})) == len(METHODS)
    one, three = chosen("drmad-bent", METHODS, arguments, (), {"anchors": (1, 3)})
    assert (one.folder, three.label) == ("drmad-bent-anchors1", "DrMAD, every loss, 3 anchors")
    assert len(chosen("all", METHODS, arguments, (0.5,), {"anchors": (3,)})) == len(METHODS)
    for name, given, words in (
        ("rmdd", {}, "method='rmdd'.*one of fo"),
        ("all", {"gamma": (2,)}, "gamma=2"),
        ("fo", {"gamma": (0.9,)}, "gamma=0.9: expected none, method='fo' has no gamma"),
        ("rmd-every", {"anchors": (3,)}, "anchors=3: .*'rmd-every' has no anchors"),
        ("drmad-bent", {"anchors": (0,)}, "anchors=0"),
        ("fo", {"hyper_rate": (0.0,)}, "hyper_rate=0.0"),
    ):
        with pytest.raises(ValueError, match=words):
            chosen(name, METHODS, arguments, (), given)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--seed", "4294967296"], "seed=4294967296: expected a whole number from 0 to 4294967295"),
        (["--seed", "1", "2", "1"], "seed=1 2 1: expected each once"),
        (["--gamma", "0.9", "0.9"], "gamma=0.9 0.9: expected each once"),
        (["--method", "rmdd"], "method='rmdd': expected 'all' or one of fo"),
        (
            ["--method", "drmad-bent", "--anchors", "3", "31"],
            "anchors=31: expected at most horizon",
        ),
        (["--method", "fo", "--anchors", "3", "--gamma", "0.5"], "gamma=0.5: expected none"),
    ],
)
def test_a_refused_value_ends_in_one_line_and_status_2(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sinusoid", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(Config, main, None)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and words in error


def frame_of(figures, preset="paper"):
    """Runs of two seeds: by (method, title), (validation, test) of either."""
    rows = [
        {"method": method, "title": title, "seed": seed, "preset": preset, "arguments": "{}"}
        | {"validation_mse": validation, "test_mse": test, "seconds_each": 0.1}
        | {"products": 30, "inner_optimisations_done": 30}
        for (method, title), runs in figures.items()
        for seed, (validation, test) in enumerate(runs)
    ]
    return pd.DataFrame(rows)


def test_table_chooses_by_validation_and_has_the_paper_s_figures_beside_its_own():
    figures = {
        ("hyperdistill", "H (γ=0.9)"): [(0.3, 0.1), (0.4, 0.1)],
        ("hyperdistill", "H (γ=0.99)"): [(0.2, 0.5), (0.3, 0.6)],
        ("nift", "N"): [(0.5, 0.9), (0.5, 1.0)],
        ("fo", "FO"): [(0.5, 0.7), (None, None)],
        ("one-step", "one"): [(0.5, 0.8), (0.5, 0.9)],
        ("drmad", "D"): [(0.5, 1.8), (0.5, 0.9)],
    }
    text = report.table(frame_of(figures))
    assert "| H (γ=0.99), chosen | 0.327 ± 0.052 | 0.550 | 0.600 | 0.550 ± 0.635 |" in text
    assert "| H (γ=0.9) | 0.327 ± 0.052 | 0.100 | 0.100 | 0.100 ± 0.000 |" in text
    assert "| FO | 0.567 ± 0.193 | 0.700 | 0.700 | 0.700 | 0.500 | -0.100 | 1 of 2 |" in text
    assert "0.327" not in report.table(frame_of(figures, preset="smoke"))


def cut(monkeypatch, module, name, after):
    """Has a function of a module interrupt the program at a call."""
    function, calls = getattr(module, name), []

    def counted(*arguments, **options):
        calls.append(name)
        if len(calls) > after:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, counted)


def test_runs_side_by_side_are_those_one_by_one_also_killed_twice(smoke, tmp_path, monkeypatch):
    rates, how = (1e-3, 1e30), {"resume": False, "fallback": False}
    methods = chosen("hyperdistill", [], lambda name: {}, (0.9,), {"hyper_rate": rates})
    together, again = tmp_path / "together", {"resume": True, "fallback": False}
    # In the second step of four runs, then where the second of them ends.
    for module, name, after, way in ((lanes, "figures", 6, how), (side_by_side, "tell", 1, again)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            cut(patch, module, name, after)
            side_by_side.run_side_by_side(smoke, methods, (0, 3), together, way)
    assert len(list(together.glob("*/seed-*/summary.json"))) == 2
    side_by_side.run_side_by_side(smoke, methods, (0, 3), together, again)
    assert not list(together.glob("together-*"))
    run_method(smoke, methods[0], (3,), tmp_path / "alone", how)
    alone = read_run(tmp_path / "alone" / methods[0].folder / "seed-3")
    together = read_run(tmp_path / "together" / methods[0].folder / "seed-3")
    assert together.config == alone.config and len(together.rows) == len(alone.rows)
    for mine, theirs in zip(together.rows, alone.rows):
        for name in mine.keys() - {"seconds", "fit"}:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-3, err_msg=name)
        assert mine["fit"] == theirs["fit"]
    np.testing.assert_allclose(together.summary["test_mse"], alone.summary["test_mse"], rtol=1e-3)
    for seed in (0, 3):  # the rate that loses λ takes no other run with it
        lost = read_run(tmp_path / "together" / methods[1].folder / f"seed-{seed}")
        assert lost.summary["diverged"] and lost.summary["test_mse"] is None


def test_a_run_side_by_side_whose_state_ends_non_finite_is_lost(tmp_path):
    State = collections.namedtuple("State", "hparams weights")
    Info = collections.namedtuple("Info", "outer_loss products")

    def step(state, tasks):
        moved = state.hparams * np.array([2.0, np.inf])
        return state._replace(hparams=moved), Info(np.ones(2), np.ones(2))

    with RunFolder(tmp_path, {}) as folder:
        trained = lanes.train_lanes(
            step,
            State(np.ones(2), np.ones(2)),
            lambda m: None,
            total=1,
            folder=folder,
            validate=lambda m, state: {},
            unit="step",
            label="",
        )
    assert trained.diverged == [None, "state is not finite after step 1"]
