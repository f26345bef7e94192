"""Is the robustness real? Signs of masked gradients and of attacks that fail (Athalye et al. 2018, arXiv 1802.00420; Carlini et al. 2019,
arXiv 1902.06705; Croce and Hein 2020, arXiv 2003.01690), each a check that is raised, passed or could not be made.

What raises each check, and what to do about it, is said in docs/evaluation.md. Passing all of them proves nothing about attacks that
were not run. No check looks at the accuracy itself.
"""

from collections.abc import Mapping
from itertools import takewhile

import torch
from torch import nn

from kdiga.attacks.guard import guarded
from kdiga.errors import BadInput
from kdiga.evaluate import Evaluation
from kdiga.evaluate.stage import clean_outcomes
from kdiga.health import behaviour, judged
from kdiga.health.attacked import STEPS, Subject, attack, evenly, withstood
from kdiga.health.flag import CHECKS, FEWEST, NAME, Flag, read, unchecked, write
from kdiga.types import Images, Labels, Outcomes, Progress, Threat

__all__ = ["CHECKS", "NAME", "Flag", "health", "read", "write"]

IMAGES = 256  # at most: a tenth of AutoAttack's time on 1000
FIXED = {"PGD-20": (20, 1 / 4), "PGD-100": (100, 1 / 10)}
WHITE = ("pgd20", "pgd100", "apgd-ce", "apgd-t", "fab-t")  # gradient attacks of many steps
ASK = "needs attacks of its own, which --health runs"


def health(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: Threat,
    *,
    found: Evaluation | None = None,
    sources: Mapping[str, nn.Module] | None = None,
    full: bool = True,
    batch_size: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Flag]:
    """A flag for each of CHECKS, in that order, measured on at most 256 of the images that the model is right on.

    `found`: what `evaluate` found on the same images under the same threat; attacks that ran there do not run again. `sources`: models
    whose adversarial images are tried on this one; they must be on its device. Without `full` only what costs next to nothing is
    checked: the model itself, and what `found` already says. Raises BadInput where `found` is of other images.
    """
    if found is not None and (found.n != len(x) or found.threat != threat):
        raise BadInput(f"the evaluation is of {found.n} images, {found.threat}: give the {len(x)} images and the threat of it")
    flags = {"training-mode": behaviour.training_mode(model)}
    tell = progress or (lambda what, done, total: None)
    device = next(model.parameters(), x).device
    with guarded(model, device):
        clean = clean_outcomes(model, x, y, batch_size, device, lambda what, done, total: None)
        rows = evenly(clean.nonzero()[:, 0], IMAGES)
        u, v = x[rows.to(x.device)].to(device), y[rows.to(y.device)].to(device)
        torch.manual_seed(seed)
        few = u[:batch_size] if len(u) else x[:batch_size].to(device)
        with torch.no_grad():
            z = model(few)
            flags["probabilities"], flags["randomness"] = behaviour.probabilities(z), behaviour.randomness(z, model(few))
        flags["reach"] = behaviour.reach(FIXED | {f"PGD-{steps}": (steps, step) for steps, step in STEPS.items()})
        flags |= _answered(found)
        if len(u) >= FEWEST and (seen := _square(found)) is not None:
            left, lost = (column.nonzero()[:, 0] for column in seen)
            those = Subject(model, x[lost.to(x.device)].to(device), y[lost.to(y.device)].to(device), threat, batch_size, seed)
            broken = withstood(those, torch.arange(len(lost), device=device))
            flags["black-box"] = judged.spill("black-box", "Square", int(clean.sum()), len(left), *broken)
        why = f"only {len(u)} images are classified right, {FEWEST} are needed" if len(u) < FEWEST else ASK
        if len(u) >= FEWEST and threat.eps > 0:
            flags["gradients"] = behaviour.gradients(model, u[:batch_size], v[:batch_size], threat)
            if not flags["gradients"].numbers:
                why = "there is no gradient to attack with"
            elif full:
                known = [column[rows].to(device) for column in _by_gradients(found)]
                flags |= attack(Subject(model, u, v, threat, batch_size, seed), known, flags, sources or {}, tell)
        elif threat.eps == 0:
            why = "eps is 0, which allows no attack"
    return [flags[name] if name in flags else unchecked(name, why) for name in CHECKS]


def _by_gradients(found: Evaluation | None) -> list[Outcomes]:
    """The columns of the gradient attacks of many steps, less those that saw only what Square had left."""
    if found is None:
        return []
    own = [found.robust[name] for name in WHITE if name in found.robust]
    return [*own, *(found.cascade[name] for name in takewhile(lambda name: name != "square", found.cascade))]


def _answered(found: Evaluation | None) -> dict[str, Flag]:
    """The check that an evaluation's own columns answer: FGSM against PGD-20."""
    flags: dict[str, Flag] = {}
    if found is None or int(found.robust["clean"].sum()) < FEWEST:
        return flags
    clean = found.robust["clean"]
    if "fgsm" in found.robust and "pgd20" in found.robust:
        flags["one-step"] = judged.one_step(found.robust["fgsm"][clean], found.robust["pgd20"][clean])
    return flags


def _square(found: Evaluation | None) -> tuple[Outcomes, Outcomes] | None:
    """What the gradient attacks of many steps left standing, and what of it Square broke; None where one of them did not run."""
    columns = _by_gradients(found)
    if found is None or not columns or "square" not in found.cascade:
        return None
    left = torch.stack([found.robust["clean"], *columns]).all(0)
    return left, left & ~found.cascade["square"]
