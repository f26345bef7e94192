"""The four attacks of AutoAttack "standard" (Croce and Hein 2020, arXiv 2003.01690), one by one, as the package pyautoattack runs them.

Of that package only the attacks' own classes are used, with the settings that its `AutoAttack(version="standard")` gives them.
Its cascade, its checks (one removes the process's trace hook and takes a compiled model for a dynamic defence) and its resume
file (which it cannot read back) are not: `evaluate` does that work.

Few classes. The attacks that aim at a class aim at the min(9, k - 1) best wrong ones of k classes. The targeted DLR loss
(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2) needs four logits: with two or three classes APGD-T maximises its numerator z_t - z_y instead.
Nothing else changes: Auto-PGD steps along the sign (l-inf) or the direction (l2) of the gradient and compares losses of one image
with each other, so that the missing denominator is not a missing scale.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kdiga.attacks.guard import check_range, guarded
from kdiga.errors import BadInput
from kdiga.types import Images, Labels, Logits, PerSample, Threat

STEPS, QUERIES, TARGETS = 100, 5000, 9
QUIET = logging.Logger("pyautoattack", logging.CRITICAL + 1)  # without a logger it warns of zero gradients through `warnings`

Build = Callable[..., Any]  # (model, classes, norm=, eps=, seed=, device=) -> one of pyautoattack's attacks


def apgd_ce(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """Auto-PGD on the cross-entropy: 100 steps from a random point (Croce and Hein 2020, arXiv 2003.01690)."""
    return run(build_apgd_ce, model, x, y, threat)


def apgd_t(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """Auto-PGD on the targeted DLR loss: 100 steps from a random point for each of the 9 best wrong classes (arXiv 2003.01690)."""
    return run(build_apgd_t, model, x, y, threat)


def fab_t(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """FAB: 100 steps to the nearest point across the boundary to each of the 9 best wrong classes (Croce and Hein 2020, arXiv 1907.02044)."""
    return run(build_fab_t, model, x, y, threat)


def square(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """Square: random search without gradients, 5000 queries (Andriushchenko et al. 2020, arXiv 1912.00049).

    One window serves the whole batch at each query: the result depends on how samples are batched.
    """
    return run(build_square, model, x, y, threat)


def build_apgd_ce(model: nn.Module, classes: int, **common: Any) -> Any:
    from pyautoattack.autopgd_base import APGDAttack

    return APGDAttack(model, loss="ce", n_iter=STEPS, n_restarts=1, eot_iter=1, rho=0.75, **common)


def build_apgd_t(model: nn.Module, classes: int, **common: Any) -> Any:
    from pyautoattack.autopgd_base import APGDAttack_targeted

    targets = min(TARGETS, classes - 1)
    attack = APGDAttack_targeted(
        model, n_iter=STEPS, n_restarts=1, eot_iter=1, rho=0.75, n_target_classes=targets, logger=QUIET, **common
    )
    if classes < 4:

        def targeted_margin(z: Logits, y: Labels) -> PerSample:
            return (z.gather(1, attack.y_target[:, None]) - z.gather(1, y[:, None]))[:, 0]

        attack.dlr_loss_targeted = targeted_margin
    return attack


def build_fab_t(model: nn.Module, classes: int, **common: Any) -> Any:
    from pyautoattack.fab_pt import FABAttack_PT

    return FABAttack_PT(model, n_iter=STEPS, n_restarts=1, targeted=True, n_target_classes=min(TARGETS, classes - 1), **common)


def build_square(model: nn.Module, classes: int, **common: Any) -> Any:
    from pyautoattack.square import SquareAttack

    return SquareAttack(model, p_init=0.8, n_queries=QUERIES, n_restarts=1, resc_schedule=False, **common)


def run(build: Build, model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """The attack's images: those it broke, and x where it failed.

    Raises BadInput for images outside [0, 1] (pyautoattack would clip them and attack others), for fewer than two classes, and for
    sizes at which Square's l2 start does not exist.
    """
    check_range(x)
    if build is build_square and threat.norm == 2:
        _check_tiles(*x.shape[2:])
    with guarded(model, x.device):
        x, y = x.detach().clone(memory_format=torch.contiguous_format), y.clone()
        if threat.eps == 0:
            return x
        classes = model(x[:1]).shape[1]
        if classes < 2:
            raise BadInput(f"an attack needs a classifier of at least two classes, the model has {classes}")
        seed = int(torch.randint(2**31, ()))
        norm = "L2" if threat.norm == 2 else "Linf"
        attack = build(model, classes, norm=norm, eps=threat.eps, seed=seed, device=x.device, verbose=False)
        images: Images = attack.perturb(x, y).detach()
        return images


def _check_tiles(height: int, width: int) -> None:
    """Under l2 Square starts from tiles of side height // 5: pyautoattack fails where the last tile of a row or column sticks out."""
    side = height // 5
    start = (height - 5 * side) // 2
    if side == 0 or (side > 1 and any(start + n // side * side > n for n in (height, width))):
        raise BadInput(f"square under l2 cannot start on images of {height}x{width} pixels: leave it out, or use another size")
