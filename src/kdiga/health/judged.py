"""What the outcomes of attacks say: which images a model still classifies right, the same images in every column."""

from collections.abc import Mapping
from itertools import pairwise

import torch

from kdiga.health.flag import FEW, POINT, SPILL, Flag, breaks_more, unchecked
from kdiga.types import Outcomes


def iterations(left: Mapping[int, Outcomes]) -> Flag:
    """`left`: what PGD leaves standing, by number of steps; the most steps against the next fewer."""
    fewer, most = sorted(left)[-2:]
    raised, p = breaks_more(left[most], left[fewer])
    n = len(left[most])
    shares = ", ".join(f"PGD-{steps} leaves {int(left[steps].sum())}" for steps in sorted(left))
    said = f"of {n} images {shares} standing"
    if raised:
        said += f" (p = {p:.1g}): the attack has not converged, and an accuracy under few steps is too high"
    return Flag("iterations", raised, said, {f"pgd{steps}": int(column.sum()) / n for steps, column in left.items()} | {"p": p})


def eps_sweep(left: Mapping[float, Outcomes]) -> Flag:
    """`left`: what PGD leaves standing, by eps; the largest spans the images' whole range, where no model can be right."""
    radii = sorted(left)
    n = len(left[radii[0]])
    end = int(torch.stack([left[eps] for eps in radii]).all(0).sum())
    rises = [(a, b) for a, b in pairwise(radii) if breaks_more(left[a], left[b], len(radii))[0]]
    shares = ", ".join(f"{int(left[eps].sum())} at {eps:.3g}" for eps in radii)
    said = f"of {n} images PGD-20 leaves {shares}"
    masked = end >= max(FEW, POINT * n)
    if masked:
        said += f": {end} are never broken although any image is allowed at the end, so the attack fails, not the model holds"
    elif rises:
        said += f": from eps {rises[0][0]:.3g} to {rises[0][1]:.3g} it breaks fewer, in a ball that holds the smaller one"
    numbers = {f"eps_{eps:.4g}": int(column.sum()) / n for eps, column in left.items()}
    return Flag("eps-sweep", masked or bool(rises), said, numbers | {"never_broken": float(end)})


def one_step(single: Outcomes, many: Outcomes) -> Flag:
    """What FGSM and what PGD-20 leave standing."""
    raised, p = breaks_more(single, many)
    said = f"of {len(many)} images FGSM leaves {int(single.sum())} standing, PGD-20 {int(many.sum())}"
    if raised:
        said += f" (p = {p:.1g}): the loss misleads small steps, as after catastrophic overfitting; PGD's accuracy is too high"
    return Flag("one-step", raised, said, {"fgsm": int(single.sum()) / len(single), "pgd20": int(many.sum()) / len(many), "p": p})


def spill(name: str, attack: str, n: int, tried: int, broken: int, spilled: int) -> Flag:
    """An attack without the model's gradients broke `broken` of the `tried` images that its gradient attacks left of n.

    `spilled` of them withstand APGD-T from several starts as well, and only they count: the cross-entropy alone, or one random start,
    misses some images near the boundary, which is no fault of the gradients.
    """
    raised = spilled >= FEW and spilled > SPILL * n
    said = f"{attack} breaks {broken} of the {tried} images that gradient attacks leave of {n}"
    if broken:
        said += f", {spilled} of which APGD-T leaves from every start"
    if raised:
        said += ": the gradients do not lead to the adversarial images there are, and robustness is overstated"
    return Flag(name, raised, said, {"images": float(n), "tried": float(tried), "broken": float(broken), "counted": float(spilled)})


def transfer(n: int, tried: int, broken: Mapping[str, tuple[int, int]]) -> Flag:
    """`broken`: by the model that was attacked, how many of the `tried` images its adversarial images break on this one, and how many
    of these withstand APGD-T."""
    if not broken:
        return unchecked("transfer", "there is no other model to take adversarial images from")
    worst = max(broken, key=lambda name: broken[name][::-1])
    flag = spill("transfer", f"PGD-20 on {worst}", n, tried, *broken[worst])
    return Flag(
        flag.name, flag.raised, flag.said, flag.numbers | {f"broken_by_{name}": float(k) for name, (k, _) in broken.items()}
    )
