"""torchopt: the inner loop of one task after the other, differentiated through."""

import torch
import torchopt
from module import Weights, task
from serve import serve
from torch_model import losses, tensors


def make(problem, method, settings, arrays):
    """The mean hypergradient of the tasks."""
    inner_loss, outer_loss = losses(problem)
    lam, w_0, inner, outer = tensors(arrays)
    tasks = len(inner[0])

    def call():
        total = 0.0
        for i in range(tasks):
            model = Weights(w_0)
            inner_optimizer = torchopt.MetaSGD(
                model, lr=settings["rate"], momentum=settings["momentum"]
            )
            for _ in range(settings["horizon"]):
                inner_optimizer.step(model(inner_loss, lam, task(inner, i)))
            total = total + model(outer_loss, lam, task(outer, i)) / tasks
        return torch.autograd.grad(total, lam)

    return call


serve(make)
