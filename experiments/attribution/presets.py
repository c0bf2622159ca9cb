"""The attribution study's presets."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
      activation: "gelu", "tanh" or "relu".
      optimizer: "sgd" (momentum 0.9), "adamw".
      rate: its learning rate.
      eps_root: of adamw.
      decay: weight decay.
      batch: examples of a step.
      horizon: T.
    """

    activation: str = "gelu"
    optimizer: str = "sgd"
    rate: float = 0.02
    eps_root: float = 1e-6
    decay: float = 1e-3
    batch: int = 64
    horizon: int = 300

    @property
    def name(self) -> str:
        """In a few words."""
        root = f", eps_root {self.eps_root:g}" if self.optimizer == "adamw" else ""
        return f"{self.activation}, {self.optimizer} {self.rate:g}{root}, T = {self.horizon}"


@dataclasses.dataclass(frozen=True)
class Preset:
    """A protocol.

    Attributes:
      examples: training examples, at most.
      widths: of the hidden layers.
      queries: test examples whose losses are attributed.
      retrainings: for each fraction.
      fractions: of the examples left out.
      recipes: of training, each a run.
      only_exact: whether only exact reverse mode is measured.
      seeds: runs.
    """

    examples: int = 1000
    widths: tuple[int, ...] = (64, 64)
    queries: int = 40
    retrainings: int = 100
    fractions: tuple[float, ...] = (0.01, 0.05, 0.2)
    recipes: tuple[Recipe, ...] = (Recipe(),)
    only_exact: bool = False
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


# Takes half a minute; shows that it runs.
SMOKE = Preset(
    examples=100,
    widths=(8,),
    queries=4,
    retrainings=10,
    fractions=(0.05,),
    recipes=(Recipe(horizon=12, batch=10),),
    seeds=(0,),
)

# A run (a data set, a seed) takes two to six minutes on one core. Exact reverse mode has an LDS of
# 0.86 at 1% left out on the digits; see RESULTS.md, attribution/cpu.
CPU = Preset()

# Training made rougher step by step: does Ŝ say beforehand where exact scores fail? One seed of a
# data set takes about ten minutes on one core.
SMOOTHNESS = Preset(
    queries=20,
    retrainings=60,
    fractions=(0.05,),
    only_exact=True,
    seeds=(0,),
    recipes=tuple(
        Recipe(activation, optimizer, rate, eps_root, horizon=150)
        for activation in ("gelu", "tanh", "relu")
        for optimizer, rate, eps_root in (
            ("sgd", 0.01, 0.0),
            ("sgd", 0.03, 0.0),
            ("sgd", 0.1, 0.0),
            ("sgd", 0.3, 0.0),
            ("adamw", 0.001, 1e-6),
            ("adamw", 0.003, 1e-6),
            ("adamw", 0.01, 1e-6),
            ("adamw", 0.003, 1e-4),
            ("adamw", 0.003, 1e-8),
            ("adamw", 0.003, 1e-10),
            ("adamw", 0.003, 1e-12),
        )
    ),
)

# A training at which exact scores fail: does any method foretell more? A few minutes on one core.
ROUGH = Preset(
    queries=20,
    retrainings=60,
    fractions=(0.05,),
    recipes=(Recipe(rate=0.1, horizon=150),),
    seeds=(0, 1),
)

PRESETS = {"smoke": SMOKE, "cpu": CPU, "smoothness": SMOOTHNESS, "rough": ROUGH}
