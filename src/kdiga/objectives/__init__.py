"""What training can minimise. Each file is one method on one screen; this dict is the contents page.

Every objective is a function (student, teacher, batch, progress, *, options) -> Terms: named, weighted, per-sample loss terms.
Three keyword parameters are no options but filled in by the training loop, for objectives that have them (GIVEN): `threat`, the recipe's threat model;
`standard_teacher`, a second teacher, trained without attacks; and `memory`, tensors by name that live from one step to the next and
are saved with the checkpoint. An objective writes to memory by assigning new tensors, never in place.
"""

import inspect
from collections.abc import Callable

from kdiga.objectives.adaad import adaad
from kdiga.objectives.adaiad import adaiad
from kdiga.objectives.advfunmatch import advfunmatch
from kdiga.objectives.akd import akd
from kdiga.objectives.ard import ard
from kdiga.objectives.ce import ce
from kdiga.objectives.cure import cure
from kdiga.objectives.dgad import dgad
from kdiga.objectives.fgsm_rs import fgsm_rs
from kdiga.objectives.free import free
from kdiga.objectives.gradalign import gradalign
from kdiga.objectives.gradnorm import gradnorm
from kdiga.objectives.iad import iad
from kdiga.objectives.ibp import ibp
from kdiga.objectives.igam import igam
from kdiga.objectives.igd import igd
from kdiga.objectives.igdm import igdm
from kdiga.objectives.kd import kd
from kdiga.objectives.kdiga import kdiga
from kdiga.objectives.kdiga_ard import kdiga_ard_a, kdiga_ard_c
from kdiga.objectives.kdiga_author import kdiga_author
from kdiga.objectives.kdiga_j import kdiga_j
from kdiga.objectives.llr import llr
from kdiga.objectives.mart import mart
from kdiga.objectives.mtard import mtard
from kdiga.objectives.n_fgsm import n_fgsm
from kdiga.objectives.pag import pag
from kdiga.objectives.pgd_at import pgd_at
from kdiga.objectives.rslad import rslad
from kdiga.objectives.saad import saad
from kdiga.objectives.trades import trades
from kdiga.types import Terms

OBJECTIVES: dict[str, Callable[..., Terms]] = {
    "ce": ce,
    "pgd_at": pgd_at,
    "trades": trades,
    "mart": mart,
    "fgsm_rs": fgsm_rs,
    "n_fgsm": n_fgsm,
    "free": free,
    "gradalign": gradalign,
    "llr": llr,
    "cure": cure,
    "gradnorm": gradnorm,
    "ibp": ibp,
    "kd": kd,
    "kdiga": kdiga,
    "kdiga_author": kdiga_author,
    "kdiga_j": kdiga_j,
    "kdiga_ard_c": kdiga_ard_c,
    "kdiga_ard_a": kdiga_ard_a,
    "ard": ard,
    "akd": akd,
    "rslad": rslad,
    "iad": iad,
    "adaad": adaad,
    "adaiad": adaiad,
    "advfunmatch": advfunmatch,
    "dgad": dgad,
    "mtard": mtard,
    "igdm": igdm,
    "saad": saad,
    "igd": igd,
    "igam": igam,
    "pag": pag,
}

GIVEN = frozenset({"threat", "standard_teacher", "memory"})
SINGLE_STEP = frozenset({"fgsm_rs", "free", "gradalign", "n_fgsm"})  # attack by one step: watched for catastrophic overfitting

__all__ = [
    "GIVEN",
    "OBJECTIVES",
    "SINGLE_STEP",
    "adaad",
    "adaiad",
    "advfunmatch",
    "akd",
    "ard",
    "ce",
    "cure",
    "dgad",
    "distils",
    "fgsm_rs",
    "free",
    "gradalign",
    "gradnorm",
    "iad",
    "ibp",
    "igam",
    "igd",
    "igdm",
    "kd",
    "kdiga",
    "kdiga_ard_a",
    "kdiga_ard_c",
    "kdiga_author",
    "kdiga_j",
    "llr",
    "mart",
    "mtard",
    "n_fgsm",
    "needs_teacher",
    "pag",
    "pgd_at",
    "rslad",
    "saad",
    "trades",
]


def distils(objective: str) -> bool:
    """Whether there is a teacher of either kind: a robust one, or a standard-trained one alone (igd)."""
    return needs_teacher(objective) or "standard_teacher" in inspect.signature(OBJECTIVES[objective]).parameters


def needs_teacher(objective: str) -> bool:
    """Whether the objective's teacher may not be None: read off its signature."""
    return "None" not in str(inspect.signature(OBJECTIVES[objective]).parameters["teacher"].annotation)
