"""The sinusoid study's presets."""

import dataclasses

from experiments.methods import METHODS


@dataclasses.dataclass(frozen=True)
class Preset:
    """A protocol. The defaults are Appendix G's, number for number.

    Attributes:
      horizon: T, inner steps.
      inner_optimisations: M.
      meta_batch: tasks for each inner optimisation.
      shots: points to train on.
      outer_points: points of the outer loss and of the test; the paper does not say.
      inner_rate: learning rate of w, SGD with the momentum.
      momentum: of w.
      hyper_rate: learning rate of λ, Adam.
      hyper_rates: that of some methods, by name.
      reptile_rate: how far φ moves towards the mean of w_T.
      fit_period: inner optimisations between two fits of θ; robust HyperDistill has its own.
      neumann: (N, K) of N.IFT: terms, and last inner steps in which λ moves.
      gammas: γ of HyperDistill to choose from by meta-validation.
      validation_tasks: tasks of the meta-validation after each inner optimisation.
      test_tasks: tasks of the meta-test.
      methods: what `--method all` runs.
      seeds: runs.
    """

    horizon: int = 30
    inner_optimisations: int = 30
    meta_batch: int = 10
    shots: int = 10
    outer_points: int = 10
    inner_rate: float = 0.01
    momentum: float = 0.9
    hyper_rate: float = 1e-3
    hyper_rates: dict[str, float] = dataclasses.field(default_factory=dict)
    reptile_rate: float = 1.0
    fit_period: int = 50
    neumann: tuple[int, int] = (5, 6)
    gammas: tuple[float, ...] = (0.9, 0.99, 0.999, 0.9999)
    validation_tasks: int = 100
    test_tasks: int = 1000
    methods: tuple[str, ...] = tuple(name for name in METHODS if name != "unlearnt")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def arguments(self, method: str) -> dict:
        """The arguments of a method, as far as it has them, that this decides."""
        rate = self.hyper_rates.get(method, self.hyper_rate)
        fitted = {"fit_period": self.fit_period, "anchors": min(6, self.horizon)}
        return fitted | dict(zip(("terms", "last"), self.neumann)) | {"hyper_rate": rate}


# The λ rate of each method with the best mean meta-validation error on seeds 100 to 104, of 1e-4,
# 3e-4, 1e-3, 3e-3, 1e-2 and 3e-2 (RESULTS.md, sinusoid/rates); of the others it is 1e-3.
RATES = {
    "fo": 3e-4,
    "one-step": 3e-4,
    "one-step-sized": 1e-4,
    "drmad": 3e-3,
    "drmad-momentum": 3e-3,
    "nift": 3e-3,
    "hyperdistill-momentum": 1e-4,
    "robust": 3e-3,
    "drmad-every": 1e-2,
    "drmad-bent": 1e-2,
    "rmd-end": 3e-3,
    "rmd-every": 1e-2,
    "rmd": 3e-4,
}

PAPER = Preset()
"""Table 4 and Figure 8 of Lee et al. 2022: `python -m experiments.sinusoid --preset paper`.

Five runs of every method, each 1 to 2 s on 2 cores and up to 4 s of compilation (RESULTS.md,
bench/cost), online RMD 6 s; one rate of λ for all, as in the paper, which has
HyperDistill at 0.327 ± 0.052 and does not say how many points the outer loss sees: `--outer-points
10`, 20 and 100 give it about 0.46, 0.36 and 0.34 (RESULTS.md, sinusoid/points-10 and the others).
"""

CPU = Preset(
    hyper_rates=RATES,
    gammas=(0.9,),
    methods=("fo", "one-step", "drmad", "nift", "hyperdistill", "robust", "rmd-every", "rmd"),
    seeds=(0, 1, 2),
)
"""The paper's protocol, each method at its own rate of λ: `python -m experiments.sinusoid`.

Three runs of the methods that one would choose from, a minute and a half on 2 cores, environment
included. Expect about 0.46 for HyperDistill, 0.29 for robust HyperDistill and RMD with every loss
over 20 seeds (RESULTS.md, sinusoid/tuned); three seeds move by 0.1.
"""

SMOKE = Preset(
    horizon=5,
    inner_optimisations=4,
    meta_batch=2,
    validation_tasks=5,
    test_tasks=20,
    seeds=(0,),
)
"""Does it run at all? `python -m experiments.sinusoid --preset smoke`, a minute."""

PRESETS = {"smoke": SMOKE, "cpu": CPU, "paper": PAPER}
