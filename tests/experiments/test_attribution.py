"""The attribution study: what is left out, exact scores foretell retrainings, a run that is cut."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.attribution import __main__ as attribution
from experiments.attribution import presets
from experiments.attribution.data import load
from experiments.attribution.setting import make_setting, methods


def test_every_seed_goes_without_the_same_examples():
    gone = attribution.left_out(presets.SMOKE, 0.05, 100)
    assert gone.shape == (10, 100) and (gone.sum(1) == 5).all()
    np.testing.assert_array_equal(gone, attribution.left_out(presets.SMOKE, 0.05, 100))
    assert len({row.tobytes() for row in gone}) > 1


def test_batches_have_every_example_once_an_epoch():
    recipe = presets.Recipe(batch=10, horizon=20)
    setting = make_setting(load("generated", None), presets.SMOKE, recipe, 0)
    numbers = [np.asarray(setting.batches(t)[2]) for t in range(20)]
    for epoch in (numbers[:10], numbers[10:]):
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(100))
    assert not np.array_equal(numbers[0], numbers[10])


def test_a_data_set_that_is_not_there_says_how_it_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"expected it from python -m experiments\.attribution"):
        load("digits", tmp_path)


def test_a_run_that_is_cut_goes_on_and_exact_scores_are_ahead(tmp_path, monkeypatch):
    two = tuple(presets.Recipe(horizon=h, batch=10) for h in (8, 12))
    preset = dataclasses.replace(presets.SMOKE, recipes=two)
    monkeypatch.setitem(attribution.PRESETS, "smoke", preset)
    few = {"exact", "1-step"}
    monkeypatch.setattr(
        attribution, "methods", lambda r: {k: v for k, v in methods(r).items() if k in few}
    )
    measure, calls = attribution.measure, []

    def cut(*arguments):
        calls.append(arguments[2].horizon)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(attribution, "measure", cut)
    config = attribution.Config(preset="smoke", out=tmp_path, resume=True)
    with pytest.raises(KeyboardInterrupt):
        attribution.main(config)
    attribution.main(config)
    assert calls == [8, 12, 12]
    (of_first, _) = json.loads((tmp_path / "generated/seed-0/recipes.json").read_text())
    lds = {row["attribution"]: row["lds"] for row in of_first["rows"]}
    assert lds["exact"] > 0.9 > lds["1-step"]
    text = (tmp_path / "report" / "README.md").read_text()
    assert "Spearman correlation of Ŝ and LDS over" in text
