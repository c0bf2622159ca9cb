"""The problems in PyTorch, all tasks at once: w has the tasks in front."""

import torch
import torch.nn.functional as F


def conv(x, kernel):
    """3x3, zero padding. x [tasks, n, C, H, W]; kernel [tasks, 3, 3, C, O], or without tasks."""
    tasks, n, channels, *size = x.shape
    if kernel.ndim == 4:
        out = F.conv2d(x.reshape(tasks * n, channels, *size), kernel.permute(3, 2, 0, 1), padding=1)
        return out.reshape(tasks, n, -1, *size)
    filters = kernel.permute(0, 4, 3, 1, 2).reshape(-1, channels, 3, 3)
    wide = x.transpose(0, 1).reshape(n, tasks * channels, *size)
    out = F.conv2d(wide, filters, padding=1, groups=tasks)
    return out.reshape(n, tasks, -1, *size).transpose(0, 1)


def losses(problem: str):
    """(inner loss, outer loss) of (w, λ, (x, y)), [tasks]."""

    def regression(w, lam, batch):
        x, y = batch
        for kernel, bias in zip(lam[::2], lam[1::2]):
            x = torch.relu(x @ kernel + bias)
        return ((x @ w[0] + w[1][:, None] - y) ** 2).mean((1, 2))

    def classification(w, lam, batch):
        x, y = batch
        x = x.permute(0, 1, 4, 2, 3)
        for kernel, warp in zip(w, lam):
            x = torch.relu(conv(torch.relu(conv(x, kernel)), warp))
            tasks, n, channels, height, width = x.shape
            x = x.reshape(tasks, n, channels, height // 2, 2, width // 2, 2).mean((4, 6))
        flat = x.permute(0, 1, 3, 4, 2).flatten(2)
        logits = flat @ w[2] + w[3][:, None]
        return -F.log_softmax(logits, -1).gather(2, y[..., None].long()).mean((1, 2))

    def logistic(w, lam, batch):
        x, y = batch
        return F.softplus(-y * (x @ w[0][..., None])[..., 0]).mean(1)

    def decayed(w, lam, batch):
        return logistic(w, lam, batch) + 0.5 * (lam[0].exp() * w[0] ** 2).sum(1)

    return {
        "sinusoid": (regression, regression),
        "conv": (classification, classification),
        "logistic": (decayed, logistic),
    }[problem]


def tensors(arrays, tasks=None):
    """(λ's leaves, w_0's for each task, inner batch, outer batch)."""
    t = {k: torch.as_tensor(x) for k, x in arrays.items()}
    count = len(t["inner_x"])
    lam = [t[f"lam_{i}"].requires_grad_() for i in range(sum(k.startswith("lam_") for k in t))]
    w = [t[f"w_{i}"] for i in range(sum(k.startswith("w_") for k in t))]
    w = [x.expand(count, *x.shape).contiguous() for x in w]
    return lam, w, *((t[f"{p}_x"], t[f"{p}_y"]) for p in ("inner", "outer"))
