"""Lee, Cho and Kim 2025, arXiv 2312.03286: indirect gradient matching (IGDM), a term added to any objective that attacks.

    x' = the attacked image of the objective `base`,    x" = its mirror image 2 x - x', clipped to [0, 1]
    L  = L_base + progress igdm_weight KL(softmax(f_t(x') - f_t(x")) || softmax(f_s(x') - f_s(x")))

A locally linear f has f(x + d) - f(x - d) = 2 J d: matching the difference matches the input gradient of every logit along the attack's
direction, without a second derivative. The ramp is the authors' epoch / epochs. The best igdm_weight depends on `base`, teacher and
data, from 0.5 to 220 in their tables; for a ResNet-18 on CIFAR-10: pgd_at 60 to 70, trades 20, ard 5 to 10, rslad 9 to 10 (theirs 0.9 to 1, on a base
that is a tenth of ours), adaad 5. Their ard has temperature 1, ours its own authors' 30.

Where this differs from the authors' code: x" is clipped. The two images are then symmetric about their midpoint, which is x
wherever nothing was clipped, and a black pixel that the attack makes lighter still takes part, over half the length. Their forward at x'
serves some of their bases too, ours cannot: besides what the base shows it, the student's BatchNorm sees x' and x", each in a batch of its own.
"""

import torch
from torch import nn

from kdiga.errors import BadInput
from kdiga.inner import remembering
from kdiga.losses import kl
from kdiga.options import Count, Positive, Weight, accepted, choices, convert
from kdiga.types import Batch, Images, Logits, PerSample, Terms, Threat


def igdm(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    base: str = "adaad",
    igdm_weight: Weight = 5.0,
    steps: Count | None = None,
    step_size: Positive | None = None,
) -> Terms:
    """Terms: those of `base` and `igdm`. `steps` and `step_size` go to `base`, whose other options keep their defaults."""
    from kdiga.objectives import GIVEN, OBJECTIVES  # not above: that module imports this one

    if base not in OBJECTIVES:
        raise BadInput(f"igdm: unknown base '{base}': {choices(base, OBJECTIVES)}")
    needed = GIVEN & accepted(OBJECTIVES[base]).keys()
    if needed != {"threat"} or base == "advfunmatch":  # which attacks mixtures of images: x would not be the middle
        raise BadInput(
            f"igdm cannot add to '{base}': its base must attack the batch's images, with one teacher and no memory, as adaad does"
        )
    attack = {k: v for k, v in {"steps": steps, "step_size": step_size}.items() if v is not None}
    options = convert(OBJECTIVES[base], attack, hidden=GIVEN)
    with remembering() as points:
        terms = OBJECTIVES[base](student, teacher, batch, progress, threat=threat, **options)
    if not points or "igdm" in terms:
        raise BadInput(
            f"igdm cannot add to '{base}', which {'has the term already' if 'igdm' in terms else 'attacks nothing'}: use adaad, say"
        )
    with torch.no_grad():
        target = teacher(points[-1])
    return terms | {"igdm": progress * igdm_weight * gap(student, teacher, batch.x, points[-1], student(points[-1]), target)}


def gap(student: nn.Module, teacher: nn.Module, x: Images, attacked: Images, z: Logits, target: Logits) -> PerSample:
    """KL between the networks' differences across x; z and target are the student's and the teacher's logits at the attacked image."""
    mirrored = (2 * x - attacked).clamp(0, 1)
    with torch.no_grad():
        target = target - teacher(mirrored)
    return kl(z - student(mirrored), target)
