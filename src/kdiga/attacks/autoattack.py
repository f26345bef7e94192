"""The four members of AutoAttack "standard" (Croce and Hein 2020, arXiv 2003.01690), with its steps, targets and queries.

Written anew, so that a sample is finished as soon as it is broken; for a sample that is not broken they do what the package pyautoattack
does (attack `pyautoattack`), up to random draws. They run on a copy of the model with its BatchNorm folded into the convolutions, where
that can be had; what was broken there and is not broken on the model itself is attacked again on the model.

Few classes. The attacks that aim at a class aim at the min(9, k - 1) best wrong ones of k classes. The targeted DLR loss
(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2) needs four logits: with two or three classes APGD-T maximises its numerator z_t - z_y instead.
Nothing else changes: Auto-PGD steps along the sign (l-inf) or the direction (l2) of the gradient and compares losses of one image
with each other, so that the missing denominator is not a missing scale.
"""

from functools import partial

import torch
from torch import nn

from kdiga.attacks.apgd import climb, random_start, targeted, untargeted
from kdiga.attacks.fab import approach
from kdiga.attacks.folding import folded
from kdiga.attacks.guard import check_range, guarded
from kdiga.attacks.packing import VALUES, Runs, each_target, right
from kdiga.attacks.square import search
from kdiga.errors import BadInput
from kdiga.inner import project
from kdiga.types import Attack, Images, Labels, Outcomes, Threat

STEPS, QUERIES = 100, 5000


def apgd_ce(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """Auto-PGD on the cross-entropy: 100 steps from a random point (Croce and Hein 2020, arXiv 2003.01690)."""

    def attack(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
        row, start = torch.arange(len(x), device=x.device), random_start(x, threat)
        return climb(model, untargeted, x, y, row, y, threat, start=start, steps=STEPS)[0]

    return run(partial(sparing, attack), model, x, y, threat)


def apgd_t(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """Auto-PGD on the targeted DLR loss: 100 steps from a random point for each of the 9 best wrong classes (arXiv 2003.01690)."""

    def attack(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
        def aimed(x: Images, y: Labels, row: Runs, target: Runs) -> tuple[Images, Outcomes]:
            return climb(model, targeted, x, y, row, target, threat, start=random_start(x[row], threat), steps=STEPS)

        return each_target(aimed, model, x, y)

    return run(partial(sparing, attack), model, x, y, threat)


def fab_t(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """FAB: 100 steps to the nearest point across the boundary to each of the 9 best wrong classes (Croce and Hein 2020, arXiv 1907.02044)."""

    def attack(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
        def aimed(x: Images, y: Labels, row: Runs, target: Runs) -> tuple[Images, Outcomes]:
            return approach(model, x, y, row, target, threat, steps=STEPS)

        return each_target(aimed, model, x, y)

    return run(partial(sparing, attack), model, x, y, threat)


def square(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """Square: random search without gradients, 5000 queries (Andriushchenko et al. 2020, arXiv 1912.00049)."""

    def attack(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
        return search(model, x, y, threat, queries=QUERIES)[0]

    return run(partial(sparing, attack), model, x, y, threat)


def run(attack: Attack, model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """What `attack` finds for the samples that are classified right, in the ball; x where the model is wrong on x.

    Raises BadInput for images outside [0, 1] and for fewer than two classes.
    """
    check_range(x)
    with guarded(model, x.device):
        x, y = x.detach().clone(memory_format=torch.contiguous_format), y.clone()
        z = model(x)
        if z.shape[1] < 2:
            raise BadInput(f"an attack needs a classifier of at least two classes, the model has {z.shape[1]}")
        found, rows = x.clone(), right(z, y).nonzero()[:, 0]
        if threat.eps and len(rows):
            found[rows] = project(attack(model, x[rows], y[rows], threat), x[rows], threat)
        return found


def sparing(attack: Attack, model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """`attack` on the model's folded copy and, on a CPU, in parts that fit its caches; then on the model what is not broken there."""
    found, left, fast = x.clone(), torch.arange(len(x), device=x.device), folded(model, x[:8])
    size = max(8, VALUES // x[0].numel()) if x.device.type == "cpu" else len(x)
    for searched in (fast, model):
        for rows in left.split(size):
            found[rows] = attack(searched, x[rows], y[rows], threat)
        changed = (found[left] != x[left]).flatten(1).any(1)  # broken, says the search
        left = left[changed & right(model(project(found[left], x[left], threat)), y[left])]
        if not len(left):
            break
    return found
