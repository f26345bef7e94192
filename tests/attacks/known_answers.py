"""Models whose worst case is known in closed form, and a small net with everything an attack could disturb."""

from math import inf

import torch
from torch import Tensor, nn

from kdiga.types import Threat

LINF, L2 = Threat(norm=inf, eps=0.03), Threat(norm=2.0, eps=0.06)


class Linear(nn.Module):
    """Logits weight @ (x - 1/2)."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 36, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


def problem(model: Linear, threat: Threat, n: int = 40, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Images, their predicted labels, and by how much the worst case in the ball leaves the label ahead (exact).

    Under l-inf some pixels lie at 0 and 1, where the box cuts the ball; under l2 none are within eps of the box.
    A sample within 2 % of its threshold, where the answer is a matter of rounding, is left out.
    """
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 6, 6, generator=g)
    x = (x * 1.2 - 0.1).clamp(0, 1) if threat.norm == inf else 0.3 + 0.4 * x
    with torch.no_grad():
        z = model(x)
        y = z.argmax(1)
        gap = model.weight[y][:, None] - model.weight  # [n, k, 36]
        if threat.norm == inf:
            room = torch.where(gap > 0, x.flatten(1)[:, None], 1 - x.flatten(1)[:, None]).clamp_max(threat.eps)
            loss = (gap.abs() * room).sum(2)
        else:
            loss = threat.eps * gap.norm(dim=2)
        lead = z.gather(1, y[:, None]) - z
        lead, loss = lead.scatter(1, y[:, None], inf), loss.scatter(1, y[:, None], 1.0)
        clear = ((lead - loss).abs() > 0.02 * loss).all(1)
        return x[clear], y[clear], (lead - loss).amin(1)[clear]


class Net(nn.Module):
    """Convolution, BatchNorm, dropout; modes and gradient flags mixed on purpose."""

    def __init__(self, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(144, classes)
        self.train()
        self.drop.eval()
        self.body[0].weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.head(self.drop(self.body(x)).flatten(1))
        return z
