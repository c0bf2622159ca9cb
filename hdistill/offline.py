"""Offline methods: the hypergradient at w_T over a whole inner optimisation."""

from hdistill.hypergradient.drmad import drmad
from hdistill.hypergradient.first_order import first_order
from hdistill.hypergradient.forward_mode import forward_mode
from hdistill.hypergradient.implicit import implicit
from hdistill.hypergradient.one_step import one_step
from hdistill.hypergradient.reversal import reversal
from hdistill.hypergradient.reverse_mode import reverse_mode

__all__ = [
    "drmad",
    "first_order",
    "forward_mode",
    "implicit",
    "one_step",
    "reversal",
    "reverse_mode",
]
