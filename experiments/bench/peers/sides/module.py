"""w of one task as a PyTorch module, which higher and torchopt differentiate through."""

import torch


class Weights(torch.nn.Module):
    """The parameters w; called, a loss at them."""

    def __init__(self, w):
        super().__init__()
        self.w = torch.nn.ParameterList([torch.nn.Parameter(x[:1].clone()) for x in w])

    def forward(self, loss, lam, batch):
        """The loss of the one task."""
        return loss(list(self.w), lam, batch).sum()


def task(batch, i: int):
    """The batch of task i."""
    return tuple(x[i : i + 1] for x in batch)
