"""Wang et al. 2020 [wang2020mart], not on arXiv: MART, adversarial training with more weight on misclassified samples.

    x' = argmax_{u in ball(x)} CE(f_s(u), y)             from x + 0.001 N(0, 1)
    L  = BCE(f_s(x'), y) + beta KL(p_s(x) || p_s(x')) (1 - p_s(x)_y)
    BCE(z, y) = CE(z, y) - log(1 - max_{k != y} softmax(z)_k)

Nothing is detached: p_s(x) and the weight 1 - p_s(x)_y are trained too, as in the authors' code. That code keeps its logarithms
finite by constants (1.0001 - p, p + 1e-12), and so the margin's term no longer teaches where a wrong class is nearly certain. Here
1 - p_k is summed from the other classes, in logarithms, and needs none. The authors attack in evaluation mode, as here, with eps
0.031 and step 0.007; here eps is the threat's and the step that of `inner.maximise`. beta is 5 or 6 there, by network. No teacher.
"""

import torch
from torch import nn

from kdiga.inner import eval_mode, maximise
from kdiga.losses import cross_entropy, kl
from kdiga.options import Count, Positive, Weight
from kdiga.types import Batch, Terms, Threat


def mart(
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    beta: Weight = 5.0,
    steps: Count = 10,
    step_size: Positive | None = None,
) -> Terms:
    """Terms: `bce` at the attacked images, and `kl` between clean and attacked predictions, weighted and times beta."""
    with eval_mode(student):
        attacked = maximise(
            lambda u: cross_entropy(student(u), batch.y),
            batch.x,
            threat,
            steps=steps,
            step_size=step_size,
            start=batch.x + 0.001 * torch.randn_like(batch.x),
        )
    clean, z = student(batch.x), student(attacked)
    rival = z.scatter(1, batch.y[:, None], -torch.inf).argmax(1, keepdim=True)
    others = z.scatter(1, rival, -torch.inf)
    ce = cross_entropy(z, batch.y)
    margin = ce - cross_entropy(others, batch.y)  # logsumexp(z) - logsumexp(others) = -log(1 - p_rival)
    unsure = -torch.expm1(-cross_entropy(clean, batch.y))  # 1 - p_s(x)_y
    return {"bce": ce + margin, "kl": beta * kl(z, clean) * unsure}
