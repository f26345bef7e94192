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
from functools import partial
from typing import Any

import torch
from torch import nn

from kdiga.attacks.guard import check_range, guarded
from kdiga.errors import BadInput
from kdiga.types import Attack, Images, Labels, Logits, PerSample, Threat

STEPS, QUERIES, TARGETS = 100, 5000, 9
QUIET = logging.Logger("pyautoattack", logging.CRITICAL + 1)  # without a logger it warns of zero gradients through `warnings`

Build = Callable[..., Any]  # (model, classes, norm=, eps=, seed=, device=) -> one of pyautoattack's attacks


def build_apgd_ce(model: nn.Module, classes: int, **common: Any) -> Any:
    """Auto-PGD on the cross-entropy: 100 steps, one random start."""
    from pyautoattack.autopgd_base import APGDAttack

    return APGDAttack(model, loss="ce", n_iter=STEPS, n_restarts=1, eot_iter=1, rho=0.75, logger=QUIET, **common)


def build_apgd_t(model: nn.Module, classes: int, **common: Any) -> Any:
    """Auto-PGD on the targeted DLR loss (the margin for k < 4): 100 steps from one random start for each target."""
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
    """FAB towards each target: 100 steps from the image; counts if the point it finds is within eps."""
    from pyautoattack.fab_pt import FABAttack_PT

    return FABAttack_PT(model, n_iter=STEPS, n_restarts=1, targeted=True, n_target_classes=min(TARGETS, classes - 1), **common)


def build_square(model: nn.Module, classes: int, **common: Any) -> Any:
    """Square on the margin: 5000 queries, one start. One window serves the whole batch: the result depends on the batch."""
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


apgd_ce: Attack = partial(run, build_apgd_ce)
apgd_t: Attack = partial(run, build_apgd_t)
fab_t: Attack = partial(run, build_fab_t)
square: Attack = partial(run, build_square)
