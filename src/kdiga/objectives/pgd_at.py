"""Madry et al. 2018, arXiv 1706.06083, eq. 2.1: adversarial training.

    x' = argmax_{u in ball(x)} CE(f_s(u), y)      by `steps` projected ascent steps from a random point of the ball
    L  = CE(f_s(x'), y)

The attack sees the student in evaluation mode: the inner loop leaves the BatchNorm statistics alone. (Published code
often attacks in training mode, which updates them once more for every step.) No teacher.
"""

from torch import nn

from kdiga.inner import eval_mode, maximise, random_point
from kdiga.losses import cross_entropy
from kdiga.options import Count, Positive
from kdiga.types import Batch, Terms, Threat


def pgd_at(
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    steps: Count = 10,
    step_size: Positive | None = None,
    random_start: bool = True,
) -> Terms:
    """Terms: `ce` at the attacked images. `step_size` in image units, see `inner.maximise` for its default."""
    with eval_mode(student):
        x = maximise(
            lambda u: cross_entropy(student(u), batch.y),
            batch.x,
            threat,
            steps=steps,
            step_size=step_size,
            start=random_point(batch.x, threat) if random_start else batch.x,
        )
    return {"ce": cross_entropy(student(x), batch.y)}
