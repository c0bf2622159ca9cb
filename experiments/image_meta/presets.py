"""The image study's presets."""

import dataclasses
from typing import Literal

PresetName = Literal["smoke", "cpu", "long", "paper"]


@dataclasses.dataclass(frozen=True)
class Preset:
    """A protocol. The defaults are Section 5's, number for number.

    Attributes:
      image_size: height and width; larger images are averaged down.
      channels: of every convolution.
      batch: images of an inner step, and of an outer loss.
      pad: largest shift of the random crop, pixels.
      horizon: T, inner steps.
      every: λ moves after every so many of them.
      inner_optimisations: M.
      meta_batch: tasks for each inner optimisation.
      fit_period: inner optimisations between two fits of θ; robust HyperDistill has its own.
      inner_rate: learning rate of w, SGD with the momentum.
      hyper_optimizer: of λ: "sgd" with the momentum, whose rate falls linearly to 0 over the run,
        or "adam" at a constant rate, as in the sinusoid study.
      hyper_rate: learning rate of λ.
      hyper_rates: that of some methods, by name.
      momentum: of w and of λ.
      reptile_rate: how far φ moves towards the mean of w_T.
      fomaml_rate: learning rate of φ under FOMAML, Adam; the paper does not say.
      corruption: probability that a training label is replaced.
      size: of HyperDistill's second-order term, "fit" for Eq. 15.
      neumann: (N, K) of N.IFT: terms, and last inner steps in which λ moves.
      validate_every: inner optimisations between two meta-validations.
      validation_tasks: tasks of a meta-validation.
      test_tasks: tasks of the meta-test.
      seeds: runs.
      gammas: γ of HyperDistill to choose from by meta-validation.
    """

    image_size: int = 32
    channels: int = 32
    batch: int = 100
    pad: int = 4
    horizon: int = 100
    every: int = 2
    inner_optimisations: int = 1000
    meta_batch: int = 4
    fit_period: int = 50
    inner_rate: float = 0.01
    hyper_optimizer: Literal["sgd", "adam"] = "sgd"
    hyper_rate: float = 0.001
    hyper_rates: dict[str, float] = dataclasses.field(default_factory=dict)
    momentum: float = 0.9
    reptile_rate: float = 1.0
    fomaml_rate: float = 1e-3
    corruption: float = 0.0
    size: str | float = "fit"
    neumann: tuple[int, int] = (5, 10)
    validate_every: int = 50
    validation_tasks: int = 100
    test_tasks: int = 500
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    gammas: tuple[float, ...] = (0.9, 0.99, 0.999, 0.9999)

    def arguments(self, method: str) -> dict:
        """The arguments of a method, as far as it has them, that this decides."""
        rate = self.hyper_rates.get(method, self.hyper_rate)
        fitted = {"every": self.every, "fit_period": self.fit_period, "size": self.size}
        fitted |= {"anchors": min(6, self.horizon)}
        return fitted | dict(zip(("terms", "last"), self.neumann)) | {"hyper_rate": rate}


PAPER = Preset()
"""Table 2, Section 5 of Lee et al. 2022 (Table 6 with `--init fomaml`), number for number.

`python -m experiments.image_meta --preset paper --model warpgrad --data-dir data`. Wants a GPU:
five runs of each method, HyperDistill at four γ. The paper has 60.91 ± 0.27% for HyperDistill and
58.18 ± 0.52% for 1-step with WarpGrad on CIFAR-100. We have not run it: a run of FO would take 9
minutes of an H200, one of 1-step or HyperDistill 17 (RESULTS.md, bench/cost).
"""

CPU = Preset(
    image_size=16,
    channels=16,
    batch=32,
    pad=2,
    horizon=50,
    inner_optimisations=100,
    meta_batch=2,
    fit_period=25,
    hyper_rate=0.005,
    neumann=(5, 5),
    validate_every=20,
    validation_tasks=10,
    test_tasks=100,
    seeds=(0, 1, 2),
    gammas=(0.9, 0.99),
)
"""Real images, scaled down: `python -m experiments.image_meta --data-dir data`.

Half the horizon and the channels, a quarter of the pixels, a third of the batch, half the
meta-batch, a tenth of the inner optimisations; with so few, λ moves faster and θ is fitted more
often. On 2 cores a run takes 1.8 minutes (FO) or 2.4 (1-step); online RMD an hour. WarpGrad, each
method at its own rate: expect 32 to 33% (FO, 1-step, HyperDistill), 36% (robust HyperDistill) and
39% (RMD with every loss, and of the last 30 steps; online RMD) (RESULTS.md, image_meta/tuned).
"""

LONG = dataclasses.replace(
    CPU, inner_optimisations=1000, fit_period=50, validate_every=50, gammas=(0.99,)
)
"""Preset cpu's shapes with the paper's number of inner optimisations, M = 1,000.

`python -m experiments.image_meta --preset long --data-dir data --method one-step --seed 10
--hyper-rate 0.00007`. On one core a run takes 8 minutes (FO), 12 to 15 (1-step, HyperDistill), 20
(N.IFT) or 50 (DrMAD), with another run on the other core. WarpGrad on CIFAR-100, seed 10: expect in
the meta-test 38% of FO, 35% of 1-step, 39% of DrMAD and 44% of N.IFT, each at the better rate of
two, 40% of HyperDistill with γ = 0.99 at 0.005 (RESULTS.md, image_meta/long-rates). The rates below
were chosen for 100 inner optimisations.
"""

SMOKE = Preset(
    image_size=8,
    channels=4,
    batch=10,
    pad=1,
    horizon=4,
    inner_optimisations=3,
    meta_batch=2,
    neumann=(1, 2),
    validate_every=2,
    validation_tasks=2,
    test_tasks=2,
    seeds=(0,),
    gammas=(0.9,),
)
"""Does it run at all? `python -m experiments.image_meta --preset smoke`.

Generated images; under a minute a method, most of it compilation.
"""

# The λ rate of each method with the best mean meta-validation on seeds 10 and 11, WarpGrad on
# CIFAR-100, of seven from 2e-4 to 0.135 (RESULTS.md, image_meta/rates); rmd-window has rmd-every's,
# drmad-bent that of 3 anchors (6 were not tried); of the others it is 0.005.
RATES = {
    "fo": 0.0017,
    "one-step": 0.0002,
    "drmad": 0.045,
    "nift": 0.135,
    "greedy": 0.0017,
    "robust": 0.015,
    "drmad-every": 0.015,
    "drmad-bent": 0.045,
    "rmd-end": 0.045,
    "rmd-every": 0.045,
    "rmd-window": 0.045,
}

PRESETS = {"smoke": SMOKE, "cpu": CPU, "long": LONG, "paper": PAPER}


def protocol(preset: PresetName, model: str) -> Preset:
    """The protocol of a preset for a model."""
    changed, scaled_down = PRESETS[preset], preset in ("cpu", "long")
    if preset == "smoke" and model == "anil":  # its four blocks halve the image four times
        changed = dataclasses.replace(changed, image_size=16)
    if scaled_down and model != "warpgrad":
        # In the small network the last block, all of it w, dies if φ is made the mean of w_T.
        changed = dataclasses.replace(changed, reptile_rate=0.1)
    if scaled_down and model == "warpgrad":
        changed = dataclasses.replace(changed, hyper_rates=RATES)
    if model == "metaweightnet":  # Appendix I
        changed = dataclasses.replace(changed, inner_rate=0.1, hyper_rate=0.01)
        changed = dataclasses.replace(changed, corruption=0.4, size=1.0)
    return changed
