"""The fidelity study's presets: how much is compared."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Preset:
    """The size of a comparison, on the problem's own study under its preset of the same name.

    Attributes:
      tasks: at each stage.
      seeds: runs.
      gamma: γ of the HyperDistill that meta-trains between the two stages.
      gammas: γ of the grids.
    """

    tasks: int
    seeds: tuple[int, ...]
    gamma: float = 0.9
    gammas: tuple[float, ...] = (0.0, 0.9, 0.99, 0.999, 0.9999)


SMOKE = Preset(tasks=1, seeds=(0,))
"""Does it run at all? `python -m experiments.fidelity --preset smoke`: two minutes on 2 cores."""

CPU = Preset(tasks=2, seeds=(0, 1, 2))
"""Figures 3, 4, 6 and 11 of Lee et al. 2022, scaled down: `python -m experiments.fidelity`.

On 2 cores a seed takes a quarter of an hour with WarpGrad or ANIL, minutes with the sinusoid.
WarpGrad: expect a mean cosine to exact RMD of 0.69 (1-step), 0.75 (HyperDistill) and 0.78 (robust
HyperDistill) over both stages (RESULTS.md, fidelity/cpu).
"""

PAPER = Preset(tasks=4, seeds=(0, 1, 2))
"""The same on the paper's own protocols: `python -m experiments.fidelity --preset paper`.

Wants a GPU. We have not run it. The paper has only curves, no table.
"""

PRESETS = {"smoke": SMOKE, "cpu": CPU, "paper": PAPER}
