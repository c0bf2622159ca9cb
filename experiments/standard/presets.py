"""Standard learning's presets."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Preset:
    """A protocol. The defaults are Appendix H's; where it is silent, Section 5's.

    Attributes:
      image_size: height and width; larger images are averaged down.
      channels: of every convolution.
      batch: images of an inner step, and of an outer loss.
      pad: largest shift of the random crop, pixels.
      steps: T, inner steps of either stage.
      stretch: inner steps of one compiled call, between two lines of metrics.jsonl.
      learning_rate: of SGD, for w and for λ.
      momentum: of both.
      gamma: γ of HyperDistill.
      size: of its second-order term (Appendix I).
      neumann: N.IFT's number of terms, and the steps from one move of λ to the next.
      corruption: probability that a training label is replaced.
      validate_every: stretches between two tests.
      seeds: runs.
    """

    image_size: int = 32
    channels: int = 32
    batch: int = 100
    pad: int = 4
    steps: int = 10_000
    stretch: int = 100
    learning_rate: float = 0.01
    momentum: float = 0.9
    gamma: float = 0.9
    size: float = 1.0
    neumann: tuple[int, int] = (5, 5)
    corruption: float = 0.4
    validate_every: int = 5
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PAPER = Preset()
"""Table 5, Appendix H of Lee et al. 2022: `python -m experiments.standard --preset paper`.

Wants a GPU. The paper has 72.68 ± 1.15% for HyperDistill and 70.15 ± 1.24% for 1-step. We have not
run it.
"""

CPU = Preset(image_size=16, channels=16, batch=32, pad=2, validate_every=20, seeds=(0, 1, 2))
"""All real images and steps, a quarter of the pixels, half the channels, a third of the batch.

`python -m experiments.standard --data-dir data`. One to three minutes a run on 2 cores. Expect
49% for every method, λ not learnt included (RESULTS.md, standard/cpu).
"""

SMOKE = Preset(
    image_size=8,
    channels=4,
    batch=10,
    pad=1,
    steps=20,
    stretch=10,
    validate_every=1,
    seeds=(0,),
)
"""Does it run at all? `python -m experiments.standard --preset smoke`, generated images."""

PRESETS = {"smoke": SMOKE, "cpu": CPU, "paper": PAPER}
