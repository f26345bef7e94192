"""The transfer bound: how much of the teacher's robustness gradient alignment and local linearity hand on. Derived in docs/theory.md.

    | l_S - l_T |(x + d) <= | l_S - l_T |(x) + eps || grad l_S(x) - grad l_T(x) ||_* + gamma_S + gamma_T            = bound
    ( l_S - l_T )(x + d) <= ( l_S - l_T )(x) + eps || grad l_S(x) - grad l_T(x) ||_* + gamma_S+ + gamma_T-          = excess, if above 0
    slack = limit - max_{x + d in ball(x)} l_T(x + d),   limit = log 2 for the cross-entropy, 0 for the margin
    excess < slack:  the student is right on the whole ball, because the teacher is and the student's loss is not much higher

for every d of the ball, || . ||_* dual to the threat's norm and the gammas as in linearity.py. The gammas and the teacher's worst loss are
found by ascent and are at most the true ones, so "inherits" is evidence and no certificate. Shao et al. 2021 (arXiv 2110.12072) state
that an aligned student keeps the teacher's certified robustness under assumptions; this bound is our own.
"""

from dataclasses import dataclass

from torch import nn

from kdiga.attacks.guard import check_range, guarded
from kdiga.inner import dual_norm
from kdiga.measures.tangent import LIMITS, Loss, Search, Tangent, tangent
from kdiga.options import Count
from kdiga.types import Images, Labels, Outcomes, PerSample, Threat


@dataclass(frozen=True, eq=False)
class Transfer:
    """Per sample, in units of the loss: the bound and its four parts, the one-sided `excess`, the teacher's `slack`, and `found`, the
    largest |l_S - l_T|(x + d) that ascent finds, which the bound should not be below."""

    gap: PerSample
    alignment: PerSample
    gamma_student: PerSample
    gamma_teacher: PerSample
    excess: PerSample
    slack: PerSample
    found: PerSample

    @property
    def bound(self) -> PerSample:
        return self.gap + self.alignment + self.gamma_student + self.gamma_teacher

    @property
    def inherits(self) -> Outcomes:
        """Where the teacher is right on the whole ball and the student so close to it that it is right too."""
        return self.excess < self.slack


def transfer(
    student: nn.Module,
    teacher: nn.Module,
    x: Images,
    y: Labels,
    threat: Threat,
    *,
    loss: Loss = "ce",
    steps: Count = 50,
    restarts: Count = 5,
) -> Transfer:
    """All the parts of the bound, and what it is held against."""
    check_range(x)
    with guarded(student, x.device), guarded(teacher, x.device):
        s, t, search = _prepared(student, teacher, x, y, threat, loss, steps, restarts)
        above, below = search.departure(s, 1), search.departure(t, -1)
        return Transfer(
            gap=(s.value - t.value).abs(),
            alignment=_alignment(s, t, threat),
            gamma_student=above.maximum(search.departure(s, -1)),
            gamma_teacher=below.maximum(search.departure(t, 1)),
            excess=(s.value - t.value + _alignment(s, t, threat) + above + below).clamp_min(0),
            slack=LIMITS[loss] - search.highest(t.loss),
            found=search.highest(lambda u: s.loss(u) - t.loss(u)).maximum(search.highest(lambda u: t.loss(u) - s.loss(u))),
        )


def transfer_bound(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: Threat,
    *,
    teacher: nn.Module,
    loss: Loss = "ce",
    steps: Count = 50,
    restarts: Count = 5,
) -> PerSample:
    """The transfer bound: how far the loss can be from the teacher's in the ball, by alignment and local linearity."""
    check_range(x)
    with guarded(model, x.device), guarded(teacher, x.device):
        s, t, search = _prepared(model, teacher, x, y, threat, loss, steps, restarts)
        gammas = search.departure(s, 1).maximum(search.departure(s, -1)) + search.departure(t, -1).maximum(search.departure(t, 1))
        return (s.value - t.value).abs() + _alignment(s, t, threat) + gammas


def transfer_slack(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: Threat,
    *,
    teacher: nn.Module,
    loss: Loss = "ce",
    steps: Count = 50,
    restarts: Count = 5,
) -> PerSample:
    """What the teacher's slack leaves of the one-sided transfer bound: above 0 where the model inherits the teacher's robustness."""
    check_range(x)
    with guarded(model, x.device), guarded(teacher, x.device):
        s, t, search = _prepared(model, teacher, x, y, threat, loss, steps, restarts)
        excess = s.value - t.value + _alignment(s, t, threat) + search.departure(s, 1) + search.departure(t, -1)
        return LIMITS[loss] - search.highest(t.loss) - excess.clamp_min(0)


def _prepared(
    student: nn.Module, teacher: nn.Module, x: Images, y: Labels, threat: Threat, loss: Loss, steps: int, restarts: int
) -> tuple[Tangent, Tangent, Search]:
    s, t = tangent(student, x, y, loss), tangent(teacher, x, y, loss)
    return s, t, Search(s.x, threat, steps=steps, restarts=restarts)


def _alignment(s: Tangent, t: Tangent, threat: Threat) -> PerSample:
    return threat.eps * dual_norm(s.gradient - t.gradient, threat)
