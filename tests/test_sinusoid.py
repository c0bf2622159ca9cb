"""The sinusoid study: tasks, model, a smoke run, kill and resume, a loss that is not finite."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hdistill as hd
from experiments.common.folder import RunFolder
from experiments.common.loop import NonFiniteLoss, meta_train
from experiments.common.methods import METHODS, chosen
from experiments.common.study import run
from experiments.common.tables import format_interval, mean_interval
from experiments.sinusoid.__main__ import Config, main
from experiments.sinusoid.presets import PRESETS
from experiments.sinusoid.setting import make_setting
from hdistill.data.sinusoid import sample_curves, sample_tasks
from hdistill.models.anil import AnilRegression


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
    assert "HyperDistill (γ=0.9)" in printed and "0.327 ± 0.052" in printed
    for name in ("table.md", "learning.png", "curves.png"):
        assert (tmp_path / name).stat().st_size > 0
    run = tmp_path / "hyperdistill-gamma0.9" / "seed-0"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["inner_optimisation"] for row in rows] == [1, 2, 3, 4]
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
    assert written["arguments"] == {"gamma": 0.9, "size": "fit", "fit_period": 50}
    assert written["hyper_rate"] == 1e-3
    config_file.write_text(json.dumps(written | {"horizon": 6}))
    with pytest.raises(ValueError, match=r"--resume.*another run"):
        main(dataclasses.replace(config, method="hyperdistill", resume=True))


KILL_TARGET = """
import pathlib, sys
import jax, numpy as np, optax
import hdistill as hd
from experiments.common.folder import RunFolder
from experiments.common.loop import meta_train
from hdistill.data.sinusoid import sample_tasks
from hdistill.models.anil import AnilRegression

model, optimizer = AnilRegression((8,)), optax.sgd(0.01, momentum=0.9)
loss = lambda w, h, points: ((model.apply(w, h, points.x) - points.y) ** 2).mean()
problem = hd.from_losses(loss, loss, optimizer)
learner = hd.learner(
    problem, hd.online.hyperdistill(problem), hyper_optimizer=optax.adam(1e-3),
    initialization=hd.reptile(), horizon=5, fit_period=7,
)
sample = jax.jit(lambda key: sample_tasks(key, 2))
hparams, params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 1)))
weights = hd.InnerState(params, optimizer.init(params))
folder = RunFolder(pathlib.Path(sys.argv[1]), {"seed": 3}, resume=True)
state = meta_train(
    learner, learner.init(jax.random.key(1), hparams, weights),
    lambda m: sample(jax.random.fold_in(jax.random.key(2), m)),
    total=60, horizon=5, folder=folder, label="test",
)
np.savez(sys.argv[2], *jax.tree.leaves((state.hparams, state.weights, state.hyper_state)))
"""


def run_target(folder, result, kill_at=None):
    """Runs the target to its end, or kills it when it has logged `kill_at` inner optimisations."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", KILL_TARGET, str(folder), str(result)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | cache)
    if kill_at is None:
        assert process.wait(timeout=120) == 0
        return
    log = folder / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= kill_at):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    run_target(tmp_path / "whole", tmp_path / "whole.npz")
    run_target(tmp_path / "cut", tmp_path / "cut.npz", kill_at=random.randint(1, 55))
    assert not (tmp_path / "cut.npz").exists()
    run_target(tmp_path / "cut", tmp_path / "cut.npz")
    whole, cut = np.load(tmp_path / "whole.npz"), np.load(tmp_path / "cut.npz")
    assert whole.files == cut.files
    for name in whole.files:
        np.testing.assert_array_equal(whole[name], cut[name])

    def rows(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in lines]

    assert rows("whole") == rows("cut")


def info_of(outer_loss):
    """What a learner tells of an inner optimisation with those losses."""
    ones, every = np.ones_like(outer_loss), np.ones_like(outer_loss, bool)
    return hd.LearnerInfo(
        outer_loss=outer_loss,
        theta=np.ones(()),
        fit=np.int8(hd.FitStatus.NONE),
        moved=every,
        finite=every,
        first_order_norm=ones,
        second_order_norm=ones,
        products=np.array(2),
        hparams=None,
    )


def first_state(setting):
    """A learner's state of the setting."""
    keys = jax.random.split(jax.random.key(0))
    return setting.learner(METHODS["fo"]).init(keys[0], *setting.start(keys[1]))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path, smoke
):
    class Learner:
        """A learner that counts, and whose loss is infinite at step 3 of inner optimisation 7."""

        def step(self, state, tasks):
            state = state._replace(done=state.done + 1)
            loss = np.ones(5)
            if state.done == 7:
                loss[2] = np.inf
            return state, info_of(loss)

    state = first_state(smoke)
    folder = RunFolder(tmp_path, {}, resume=False)
    with pytest.raises(
        NonFiniteLoss, match="loss is inf at inner step 3 of inner optimisation 7"
    ) as error:
        meta_train(
            Learner(),
            state,
            lambda m: None,
            total=10,
            horizon=5,
            folder=folder,
            label="test",
            save_every=2,
        )
    assert error.value.checkpoint == 6 and isinstance(error.value, ValueError)
    assert folder.restore(state)[0] == 6 and folder.restore(state)[1].done == 6
    assert len(folder.metrics()) == 6


def test_parameters_that_are_not_finite_are_never_saved(tmp_path, smoke):
    state = first_state(smoke)
    bad = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), state.hparams)

    class Learner:
        """λ is infinite after inner optimisation 4, at finite losses."""

        def step(self, state, tasks):
            state = state._replace(done=state.done + 1)
            state = state._replace(hparams=bad) if state.done == 4 else state
            return state, info_of(np.ones(5))

    folder = RunFolder(tmp_path, {}, resume=False)
    with pytest.raises(NonFiniteLoss, match=r"hparams are not finite .* inner optimisation 4"):
        meta_train(
            Learner(),
            state,
            lambda m: None,
            total=10,
            horizon=5,
            folder=folder,
            label="test",
            save_every=2,
        )
    assert folder.restore(state)[0] == 2


def test_a_run_that_diverges_says_so_in_its_summary(tmp_path, smoke):
    def poisoned(key):
        hparams, weights = smoke.start(key)
        return hparams, jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), weights)

    method = METHODS["fo"]
    folder = RunFolder(tmp_path, {}, resume=False)
    summary = run(smoke._replace(start=poisoned), smoke.learner(method), method, 0, folder)
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
    found = chosen("all", METHODS, {"fit_period": 7, "last": 3}, {"gamma": (0.5, 0.9)})
    assert len({method.folder for method in found}) == len(found) == len(METHODS) + 1
    by_folder = {method.folder: method for method in found}
    assert by_folder["robust"].arguments == {"gamma": 0.6, "trust": 0.9, "fit_schedule": "doubling"}
    schedule = by_folder["robust"].learner_arguments["fit_period"]
    assert [m for m in range(1, 20) if schedule(m)] == [1, 2, 4, 8, 16]
    half = by_folder["hyperdistill-gamma0.5"]
    assert half.arguments == {"gamma": 0.5, "size": "fit", "fit_period": 7}
    assert half.label == "HyperDistill (γ=0.5)" and half.learner_arguments == {"fit_period": 7}
    assert by_folder["nift"].label == "N.IFT(5, 3)"
    assert by_folder["greedy"].arguments == {"gamma": 0.5}
    for name, gamma, words in (("rmdd", 0.9, "method='rmdd'.*one of fo"), ("fo", 2, "gamma=2")):
        with pytest.raises(ValueError, match=words):
            chosen(name, METHODS, {}, {"gamma": (gamma,)})
