"""Shafahi et al. 2019, arXiv 1904.12843: "free" adversarial training, one backward for weights and perturbation.

    u      = project(x + delta)
    L  = CE(f_s(u), y)
    delta <- project(u + eps * direction(grad_u L)) - x       when the loop calls backward for the weights

Each batch is shown `replays` times in a row, and delta is carried from step to step, also from one batch to the next, starting at
zero, all as in the authors' code. The attack costs no forward and no backward of its own, so it sees the student in training mode;
the 1/B of the mean loss has no part in a direction. An epoch keeps its number of steps and sees one in `replays` of the images: at equal
epochs the number of updates is equal.

The authors' code clips x + delta to the image range in front of the network and carries the unclipped delta: a clipped pixel has no
gradient there. Here the carried delta is clipped. No teacher.
"""

from torch import Tensor, nn

from kdiga.inner import direction, project
from kdiga.losses import cross_entropy
from kdiga.options import Count
from kdiga.types import Batch, Images, Terms, Threat


def free(
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    memory: dict[str, Tensor],
    replays: Count = 4,
) -> Terms:
    """Terms: `ce` at the perturbed images. `replays` is read by the training loop, which repeats the batch, and not here.

    `memory` holds `delta`, assigned when the loop calls backward; one of another shape than the batch starts again at zero.
    """
    delta = memory.get("delta")
    if delta is None or delta.shape != batch.x.shape:
        delta = batch.x.new_zeros(batch.x.shape)
    point = project(batch.x + delta, batch.x, threat)

    def advance(gradient: Images) -> None:
        memory["delta"] = (project(point + threat.eps * direction(gradient, threat), batch.x, threat) - batch.x).detach()

    u = point.detach().requires_grad_()
    u.register_hook(advance)
    return {"ce": cross_entropy(student(u), batch.y)}
