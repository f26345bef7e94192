"""De Jorge et al. 2022, arXiv 2202.01181: N-FGSM, one step from strong noise, not projected back.

    u  = x + uniform noise of at most noise * eps, in [0, 1]
    x' = u + step_size * direction(grad_u CE(f_s(u), y)), in [0, 1]
    L  = CE(f_s(x'), y)

By design the student is shown images outside the threat's ball, at most (noise + 1) eps from x: what is projected is the step, into
the ball around u, which a step of up to eps does not leave. As in the authors' code the step is eps, and images are clipped to [0, 1]
before and after it. That code attacks in training mode, which moves the BatchNorm statistics twice per update; here the attack sees
evaluation mode. No teacher.
"""

from dataclasses import replace

from torch import nn

from kdiga.inner import eval_mode, maximise, random_point
from kdiga.losses import cross_entropy
from kdiga.options import Positive, Weight
from kdiga.types import Batch, Terms, Threat


def n_fgsm(
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    noise: Weight = 2.0,
    step_size: Positive | None = None,
) -> Terms:
    """Terms: `ce` at the attacked images. `noise` in units of eps; `step_size` in image units, None is eps."""
    reach = noise * threat.eps
    noisy = random_point(
        batch.x, replace(threat, eps=reach if threat.norm == 2 else min(reach, 1.0))
    )  # wider than the whole range is no wider
    with eval_mode(student):
        x = maximise(lambda u: cross_entropy(student(u), batch.y), noisy, threat, steps=1, step_size=step_size, start=noisy)
    return {"ce": cross_entropy(student(x), batch.y)}
