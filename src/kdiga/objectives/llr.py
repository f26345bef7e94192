"""Qin et al. 2019, arXiv 1907.02610: LLR, training for a loss that is locally linear.

    l(u) = CE(f_s(u), y)
    r(d) = | l(x + d) - l(x) - d . grad l(x) |
    d  = argmax_{x + d in ball(x)} r(d)                  by `steps` projected ascent steps from a random point of the ball
    L  = ce_weight l(x) + linearity_weight r(d) + slope_weight | d . grad l(x) |

d is a constant of the outer loss; grad l(x) is not, in either term, and is differentiated a second time. No adversarial loss.

The weights are those of the authors' published CIFAR-10 configuration at 8/255, divided by its weight 2 of the cross-entropy. The
paper's own are 4 and 3 (recalled): with those, at a large eps, a student may stay at the constant function, which is linear.

Where this differs from the authors' code: it searches by ten steps of Adam, raises eps over the first 500 updates, trains softplus
networks, and normalises every point with the clean batch's BatchNorm statistics. Here the search is that of `inner.maximise`, in
evaluation mode and of few steps (enough, by the paper); eps is the threat's throughout; and the outer loss is taken in
training mode, each point with its own batch's statistics. (With the terms in evaluation mode a student trained from scratch became
linear in that mode, at the price of its accuracy there, and went on fitting in the other.) No teacher.
"""

from torch import nn

from kdiga.inner import eval_mode, maximise, random_point
from kdiga.losses import cross_entropy, input_gradient
from kdiga.options import Count, Positive, Weight
from kdiga.types import Batch, Images, PerSample, Terms, Threat


def llr(
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    ce_weight: Weight = 1.0,
    linearity_weight: Weight = 2.0,
    slope_weight: Weight = 0.6,
    steps: Count = 2,
    step_size: Positive | None = None,
) -> Terms:
    """Terms: `ce`, `linearity` (the largest departure from linearity found, in nats), `slope` (the linear part there)."""
    x = batch.x.detach().requires_grad_()

    def loss(u: Images) -> PerSample:
        return cross_entropy(student(u), batch.y)

    with eval_mode(student):
        here = loss(x)
        g = input_gradient(here, x)
        here = here.detach()
        start = random_point(batch.x, threat)  # at x itself the departure is 0 and has no gradient
        far = maximise(
            lambda u: (loss(u) - here - _dot(u - batch.x, g)).abs(), batch.x, threat, steps=steps, step_size=step_size, start=start
        )
    clean = loss(x)
    slope = _dot(far - batch.x, input_gradient(clean, x, create_graph=True))
    return {
        "ce": ce_weight * clean,
        "linearity": linearity_weight * (loss(far) - clean - slope).abs(),
        "slope": slope_weight * slope.abs(),
    }


def _dot(a: Images, b: Images) -> PerSample:
    return (a * b).flatten(1).sum(1)
