"""The fidelity study's setting, another study's, and the methods that it compares."""

import pathlib
from typing import Literal

import jax

import hdistill as hd
from experiments.fidelity.presets import Preset
from experiments.image_meta import setting as image_meta
from experiments.image_meta.presets import PresetName
from experiments.methods import METHODS, Method
from experiments.run.study import Setting
from experiments.sinusoid import setting as sinusoid

ProblemName = Literal["warpgrad", "anil", "sinusoid"]
# The reference, and what the grids hold.
AGAIN = {"rmd", "unlearnt", "one-step-sized"}
AGAIN |= {"hyperdistill", "hyperdistill-apart", "hyperdistill-momentum"}


def make_setting(name: ProblemName, preset: PresetName, data_dir: pathlib.Path) -> Setting:
    """The setting of a problem; the images are CIFAR-100's, or generated (preset smoke)."""
    if name == "sinusoid":
        return sinusoid.make_setting(preset)
    return image_meta.make_setting(name, preset_name=preset, data_dir=data_dir)


def adapted(name: str, setting: Setting) -> Method:
    """A method with the arguments of the setting's preset."""
    return METHODS[name].adapted(setting.arguments(name))


def decayed(problem: hd.Problem, gamma: float) -> hd.Problem:
    """The problem with a surrogate for which A = γI and B is Φ's.

    Its reverse mode is Eq. 7, Σ_i γ^(t-i) α_t B_i: what HyperDistill distils.
    """

    def surrogate(weights, hparams, batch):
        after = problem.update(jax.lax.stop_gradient(weights), hparams, batch)
        return jax.tree.map(lambda x, new: new + gamma * x, weights, after)

    return problem._replace(surrogate=surrogate)


def contenders(setting: Setting, preset: Preset) -> dict[str, hd.Estimator]:
    """Builds the methods by name: the study's online ones, more of greedy, four grids of γ."""
    problem, online = setting.problem, hd.online
    estimators = {n: adapted(n, setting).estimator(setting) for n in METHODS if n not in AGAIN}
    compared = {n: e for n, e in estimators.items() if isinstance(e, hd.Estimator)}
    compared["greedy-0.9"] = online.greedy(problem, gamma=0.9)
    for gamma in preset.gammas:
        compared[f"paper-{gamma}"] = online.hyperdistill(setting.momentum_free, gamma=gamma)
        compared[f"fitted-{gamma}"] = online.hyperdistill(problem, gamma=gamma)
        compared[f"size1-{gamma}"] = online.hyperdistill(problem, gamma=gamma, size=1.0)
        compared[f"eq7-{gamma}"] = online.reverse_mode(
            decayed(problem, gamma), window=setting.horizon
        )
    return compared
