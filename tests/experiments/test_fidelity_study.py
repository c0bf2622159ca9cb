"""The fidelity study: Eq. 7 by hand, what it draws, a run that is cut and goes on."""

import pathlib

import jax
import numpy as np
import pandas as pd
import pytest

import hdistill as hd
from experiments.fidelity import __main__ as fidelity
from experiments.fidelity import passes
from experiments.fidelity.presets import Preset
from experiments.fidelity.setting import contenders, decayed, make_setting
from hdistill.training import read_run
from tests.problems import LEARNING_RATE, quadratic, quadratic_constants

ONE_TASK = Preset(tasks=1, seeds=(0,), gammas=(0.9,))


def test_decayed_problem_s_exact_hypergradient_is_equation_7():
    case = quadratic("sgd", horizon=4)
    gamma = 0.7
    final = np.asarray(hd.unroll(*case[:4]).params)
    result = hd.offline.reverse_mode(decayed(case.problem, gamma), *case[1:])
    alpha = final - np.asarray(case.outer_batch).mean(0)
    # B_i = ηC at every step.
    coupling = LEARNING_RATE * quadratic_constants().coupling
    expected = (1 + gamma + gamma**2 + gamma**3) * alpha @ coupling
    np.testing.assert_allclose(result.second_order, expected, rtol=1e-12)
    np.testing.assert_allclose(result.first_order, case.hparams, rtol=1e-12)


def test_image_scene_draws_a_batch_for_each_inner_step():
    setting = make_setting("warpgrad", "smoke", pathlib.Path("unused"))
    (images, labels), (outer, _) = setting.draw(jax.random.key(0))
    assert images.shape == (4, 10, 8, 8, 3) and outer.shape == (10, 8, 8, 3)
    assert labels.shape == (4, 10) and setting.horizon == 4
    assert not np.array_equal(images[0], images[1])


def test_a_run_that_is_cut_after_the_first_stage_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(fidelity.PRESETS, "smoke", ONE_TASK)
    few = {"fo", "paper-0.9", "size1-0.9", "eq7-0.9"}
    monkeypatch.setattr(
        fidelity, "contenders", lambda *a: {k: v for k, v in contenders(*a).items() if k in few}
    )
    pair = {name: passes.METHODS[name] for name in ("rmd-every", "drmad-every")}
    monkeypatch.setattr(passes, "METHODS", pair)
    config = fidelity.Config(problem=("sinusoid",), preset="smoke", out=tmp_path, resume=True)
    train = fidelity.train

    def cut(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(fidelity, "train", cut)
    with pytest.raises(KeyboardInterrupt):
        fidelity.main(config)
    folder = tmp_path / "sinusoid" / "seed-0"
    before = (folder / "random-cosines.csv").stat().st_mtime_ns
    monkeypatch.setattr(fidelity, "train", train)
    fidelity.main(config)
    assert (folder / "random-cosines.csv").stat().st_mtime_ns == before
    for stage in ("random", "trained"):
        rows = pd.read_csv(folder / f"{stage}-cosines.csv")
        exact = rows.loc[rows["method"] == "exact", "cosine"]
        np.testing.assert_allclose(exact, np.ones(5), rtol=1e-5)
        assert rows["cosine"].abs().max() < 1.001
        assert len(pd.read_csv(folder / f"{stage}-samples.csv")) == 5
    bent = rows[rows["method"] == "drmad-every"]
    assert list(bent["t"]) == [5] and 0.9 < bent["cosine"].item() < 1 - 1e-6
    summary = read_run(folder).summary
    ours = rows.loc[rows["method"] == "paper-0.9", "cosine"]
    assert summary["cosine"] == pytest.approx(ours.mean()) and summary["diverged"] is None
    report = tmp_path / "report"
    assert "| exact RMD | 1.000 |" in (report / "README.md").read_text()
    plots = {path.name for path in report.glob("*.svg")}
    assert plots == {f"sinusoid-figure{n}.svg" for n in ("3", "4")}  # one γ: no grid


def test_a_run_that_diverges_is_compared_at_its_last_good_state(tmp_path, monkeypatch):
    def diverges(*arguments, folder, **named):
        raise fidelity.NonFiniteLoss("outer loss is nan", "inner optimisation", 3, 2, 0)

    monkeypatch.setattr(fidelity, "train", diverges)
    setting = make_setting("sinusoid", "smoke", tmp_path)
    only = {"paper-0.9": hd.online.hyperdistill(setting.problem, gamma=0.9)}
    monkeypatch.setattr(fidelity, "contenders", lambda *a: only)
    monkeypatch.setattr(fidelity, "compare_passes", lambda *a: {})
    with fidelity.RunFolder(tmp_path / "run", {}) as folder:
        summary = fidelity.Study(setting, ONE_TASK).run(0, folder)
    assert "outer loss is nan" in summary["diverged"]
    texts = [(folder.path / f"{s}-cosines.csv").read_text() for s in ("random", "trained")]
    assert texts[0] == texts[1]  # no checkpoint: the state that it began with
