"""The package pyautoattack's own classes, one after another on what is left: to check ours against (`--attacks pyautoattack`).

They get the settings that its `AutoAttack(version="standard")` gives them. Its cascade, its checks (one removes the process's trace hook
and takes a compiled model for a dynamic defence) and its resume file (which it cannot read back) are not used.
"""

import logging
from typing import Any

import torch
from torch import nn

from kdiga.attacks import autoattack
from kdiga.attacks.packing import TARGETS, right
from kdiga.errors import BadInput
from kdiga.types import Images, Labels, Logits, PerSample, Threat

QUIET = logging.Logger("pyautoattack", logging.CRITICAL + 1)  # without a logger it warns of zero gradients through `warnings`


def pyautoattack(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
    """AutoAttack standard as the package pyautoattack runs it, much slower: to check ours (Croce and Hein 2020, arXiv 2003.01690)."""

    def all_four(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
        found, left = x.clone(), torch.arange(len(x), device=x.device)
        for build in (build_apgd_ce, build_apgd_t, build_fab_t, build_square):
            if build is build_square and threat.norm == 2:
                _check_tiles(*x.shape[2:])
            norm, seed = "L2" if threat.norm == 2 else "Linf", int(torch.randint(2**31, ()))
            attack = build(model, model(x[:1]).shape[1], norm=norm, eps=threat.eps, seed=seed, device=x.device, verbose=False)
            found[left] = attack.perturb(x[left], y[left]).detach()
            left = left[right(model(found[left]), y[left])]
            if not len(left):
                break
        return found

    return autoattack.run(all_four, model, x, y, threat)


def build_apgd_ce(model: nn.Module, classes: int, **common: Any) -> Any:
    from pyautoattack.autopgd_base import APGDAttack

    return APGDAttack(model, loss="ce", n_iter=autoattack.STEPS, n_restarts=1, eot_iter=1, rho=0.75, **common)


def build_apgd_t(model: nn.Module, classes: int, **common: Any) -> Any:
    from pyautoattack.autopgd_base import APGDAttack_targeted

    settings: dict[str, Any] = {"n_iter": autoattack.STEPS, "n_restarts": 1, "eot_iter": 1, "rho": 0.75, "logger": QUIET}
    attack = APGDAttack_targeted(model, n_target_classes=min(TARGETS, classes - 1), **settings, **common)
    if classes < 4:

        def targeted_margin(z: Logits, y: Labels) -> PerSample:
            return (z.gather(1, attack.y_target[:, None]) - z.gather(1, y[:, None]))[:, 0]

        attack.dlr_loss_targeted = targeted_margin
    return attack


def build_fab_t(model: nn.Module, classes: int, **common: Any) -> Any:
    from pyautoattack.fab_pt import FABAttack_PT

    targets = min(TARGETS, classes - 1)
    return FABAttack_PT(model, n_iter=autoattack.STEPS, n_restarts=1, targeted=True, n_target_classes=targets, **common)


def build_square(model: nn.Module, classes: int, **common: Any) -> Any:
    from pyautoattack.square import SquareAttack

    return SquareAttack(model, p_init=0.8, n_queries=autoattack.QUERIES, n_restarts=1, resc_schedule=False, **common)


def _check_tiles(height: int, width: int) -> None:
    """Under l2 its Square starts from tiles of side height // 5, and fails where the last tile of a row or column sticks out."""
    side = height // 5
    start = (height - 5 * side) // 2
    if side == 0 or (side > 1 and any(start + n // side * side > n for n in (height, width))):
        raise BadInput(f"pyautoattack under l2 cannot start on images of {height}x{width} pixels: use autoattack, or another size")
