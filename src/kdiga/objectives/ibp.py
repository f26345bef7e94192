"""Gowal et al. 2018, arXiv 1810.12715: certified training by interval bounds.

    m_j   = a lower bound of f_s(u)_y - f_s(u)_j over the ball of radius share eps around x, by interval propagation (`kdiga.bounds`)
    share = min(1, progress / ramp)        kappa = 1 - (1 - final_kappa) share
    L     = kappa CE(f_s(x), y) + (1 - kappa) CE(-m, y)

The last layers are merged with the margin, as there. No attack, no teacher: what is trained is a proof, and `ibp-margin` and
`crown-ibp-margin` are what it is for. l-inf threats only; a student whose steps `kdiga.bounds` knows, at best a small one with ReLUs.

Where this differs: BatchNorm (the paper's networks have none) uses the statistics of the clean batch in the bounds too, as Shi et al. 2021
(arXiv 2103.17245) do, so that one forward serves both terms. The paper trains on the clean loss alone for some thousand steps first, then
ramps; here the ramp starts at once and takes half of training.
"""

from torch import nn

from kdiga.bounds import box, intervals, margins, record
from kdiga.losses import cross_entropy
from kdiga.options import Share
from kdiga.types import Batch, Terms, Threat


def ibp(
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    final_kappa: Share = 0.5,
    ramp: Share = 0.5,
) -> Terms:
    """Terms: `ce` at the clean images and `bound`, the cross-entropy of the worst logits that the bounds allow; both weighted."""
    share = min(1.0, progress / ramp) if ramp else 1.0
    kappa = 1 - (1 - final_kappa) * share
    steps, z = record(student, batch.x)
    found = intervals(steps, box(batch.x, Threat(norm=threat.norm, eps=share * threat.eps)))
    worst = -margins(steps, found, batch.y, relax=False)
    return {"ce": kappa * cross_entropy(z, batch.y), "bound": (1 - kappa) * cross_entropy(worst, batch.y)}
