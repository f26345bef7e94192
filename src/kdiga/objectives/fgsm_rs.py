"""Wong, Rice and Kolter 2020, arXiv 2001.03994: adversarial training by one step from a random start.

    x' = project(u + step_size * direction(grad_u CE(f_s(u), y)))      u drawn uniformly from the ball around x
    L  = CE(f_s(x'), y)

A step of 1.25 eps is the authors' 10/255 at 8/255. Within an epoch training may fall into a student that resists this one step and
no stronger attack (catastrophic overfitting), the likelier the larger the step: watch its accuracy under PGD. The authors' code
attacks in training mode, which moves the BatchNorm statistics twice per update; here the attack sees evaluation mode. No teacher.
"""

from torch import nn

from kdiga.inner import eval_mode, maximise, random_point
from kdiga.losses import cross_entropy
from kdiga.options import Positive
from kdiga.types import Batch, Terms, Threat


def fgsm_rs(
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    step_size: Positive | None = None,
) -> Terms:
    """Terms: `ce` at the attacked images. `step_size` in image units; None is 1.25 eps."""
    with eval_mode(student):
        x = maximise(
            lambda u: cross_entropy(student(u), batch.y),
            batch.x,
            threat,
            steps=1,
            step_size=1.25 * threat.eps if step_size is None else step_size,
            start=random_point(batch.x, threat),
        )
    return {"ce": cross_entropy(student(x), batch.y)}
