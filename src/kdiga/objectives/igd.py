"""Chen et al. 2023, arXiv 2305.09305: input gradient distillation (IGD), from a standard-trained teacher.

    x' = argmax_{u in ball(x)} CE(f_s(u), y)      by `steps` projected ascent steps from a random point of the ball
    L  = CE(f_s(x'), y) + igd_weight (1 - cos(grad_x CE(f_s(x), y), grad_x CE(f_n(x), y)))

Adversarial training under l-inf makes input gradients uneven: few pixels count for much. Those of a network trained without attacks
are more even, and the student's are turned, not scaled, towards them. So f_n is `standard_teacher`, NOT a robust network, and
robustness comes from x' alone. `teacher` is not used.

What is ours: the published abstract fixes the cosine, the adversarial training and the teacher. The point of the gradients (the clean
image), the mode they are taken in (training, as `kdiga`) and the weight 1 are choices of this package: the authors' training code and their
weight were not available. In evaluation mode the term is met by the running statistics alone: on digits the student then withstood
the attack in training mode, and nothing in evaluation mode (AutoAttack 0.8 % instead of what adversarial training reaches).
"""

from torch import nn

from kdiga.losses import angle, cross_entropy, input_gradient
from kdiga.objectives.ard import label_attack
from kdiga.options import Count, Positive, Weight
from kdiga.types import Batch, Terms, Threat


def igd(
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    standard_teacher: nn.Module,
    igd_weight: Weight = 1.0,
    steps: Count = 10,
    step_size: Positive | None = None,
) -> Terms:
    """Terms: `ce` at the attacked images, `igd` (from 0 to 2, times igd_weight)."""
    attacked = label_attack(student, batch, threat, steps=steps, step_size=step_size)
    loss = cross_entropy(student(attacked), batch.y)
    x = batch.x.detach().requires_grad_()
    g_teacher = input_gradient(cross_entropy(standard_teacher(x), batch.y), x)
    g_student = input_gradient(cross_entropy(student(x), batch.y), x, create_graph=True)
    return {"ce": loss, "igd": igd_weight * angle(g_student, g_teacher)}
