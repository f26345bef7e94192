"""One step and many: FGSM (Goodfellow et al. 2015, arXiv 1412.6572) and PGD (Madry et al. 2018, arXiv 1706.06083).

Both maximise the cross-entropy with `inner.maximise` and return the last iterate. For l2 a step goes along g / ||g||_2.
"""

import torch
from torch import nn

from kdiga.attacks.guard import check_range, guarded
from kdiga.errors import BadInput
from kdiga.inner import maximise, random_point
from kdiga.losses import cross_entropy
from kdiga.types import Images, Labels, Threat


def fgsm(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """FGSM: one step of eps along the sign of the gradient, from the image itself (Goodfellow et al. 2015, arXiv 1412.6572)."""
    check_range(x)
    with guarded(model, x.device):
        x, y = x.detach().clone(memory_format=torch.contiguous_format), y.clone()
        return maximise(lambda u: cross_entropy(model(u), y), x, threat, steps=1, step_size=threat.eps, start=x)


def pgd20(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """PGD: 20 steps of eps / 4 (2/255 at eps 8/255) on the cross-entropy from a random point (Madry et al. 2018, arXiv 1706.06083)."""
    return pgd(model, x, y, threat, steps=20, step=1 / 4)


def pgd100(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """PGD: 100 steps of eps / 10 on the cross-entropy from a random point (Madry et al. 2018, arXiv 1706.06083)."""
    return pgd(model, x, y, threat, steps=100, step=1 / 10)


def pgd(model: nn.Module, x: Images, y: Labels, threat: Threat, *, steps: int, step: float) -> Images:
    """`steps` steps of `step * eps` from a point drawn uniformly from the ball.

    Raises BadInput if the steps together cannot cross the ball (steps * step < 2): such an attack overstates robustness.
    """
    if steps * step < 2:
        raise BadInput(
            f"{steps} steps of {step:g} eps cannot cross the ball, whose diameter is 2 eps: use a step of at least {2 / steps:g}"
        )
    check_range(x)
    with guarded(model, x.device):
        x, y = x.detach().clone(memory_format=torch.contiguous_format), y.clone()
        start = random_point(x, threat)
        return maximise(lambda u: cross_entropy(model(u), y), x, threat, steps=steps, step_size=step * threat.eps, start=start)
