"""The sinusoid study's presets."""

import dataclasses

from experiments.common.methods import METHODS


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

    def rate(self, method: str) -> float:
        """λ's learning rate under a method."""
        return self.hyper_rates.get(method, self.hyper_rate)


PAPER = Preset()
"""Table 4 and Figure 8 of Lee et al. 2022: `python -m experiments.sinusoid --preset paper`.

Five runs of ten methods, three minutes on 2 cores. The paper has HyperDistill at 0.327 ± 0.052;
here it is above 1, robust HyperDistill and online RMD are near 0.3, FO and 1-step near 0.5
(RESULTS.md, sinusoid/five-seeds).
"""

CPU = Preset(seeds=(0,))
"""The paper's protocol, one run of each method: `python -m experiments.sinusoid`.

One minute on 2 cores. Expect about 0.27 for robust HyperDistill, 0.35 for online RMD, 0.5 for FO
and 1-step; HyperDistill ends at 4.5, and 1-step with a fitted size diverges. (The runs are
chaotic: on another machine they are others.)
"""

SMOKE = Preset(
    horizon=5,
    inner_optimisations=4,
    meta_batch=2,
    validation_tasks=5,
    test_tasks=20,
    seeds=(0,),
)
"""Does it run at all? `python -m experiments.sinusoid --preset smoke`, under a minute."""

PRESETS = {"smoke": SMOKE, "cpu": CPU, "paper": PAPER}
