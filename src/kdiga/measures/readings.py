"""How each measure is read: what its number is, which way is more robust, and what it states about an image, if anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

from kdiga.types import Outcomes, PerSample, Threat

LOG2 = log(2.0)  # a cross-entropy below it: the label has more than half of the probability


@dataclass(frozen=True, kw_only=True)
class Reading:
    """`sign` is +1 where a larger value is more robust. `states` is what a value on the good side of the limit means; None where the measure
    makes no statement about the threat. `proof`: the statement holds whatever an attack finds; else it is evidence or an estimate."""

    what: str
    unit: str
    sign: int
    states: str | None = None
    proof: bool = False


READINGS: dict[str, Reading] = {
    "local-linearity": Reading(what="largest deviation of the loss from its tangent in the ball", unit="nats", sign=-1),
    "linear-bound": Reading(
        what="the worst loss in the ball that local linearity allows", unit="nats", sign=-1, states="robust by local linearity"
    ),
    "gradient-l2": Reading(what="l2 distance of the input gradient to the teacher's", unit="nats per unit", sign=-1),
    "gradient-l1": Reading(what="l1 distance of the input gradient to the teacher's", unit="nats per unit", sign=-1),
    "gradient-cosine": Reading(what="cosine of the input gradient with the teacher's", unit="", sign=1),
    "transfer-bound": Reading(what="how far the loss can be from the teacher's in the ball", unit="nats", sign=-1),
    "transfer-slack": Reading(
        what="what the teacher's slack leaves of the transfer bound",
        unit="nats",
        sign=1,
        states="robust by transfer from the teacher",
    ),
    "clever": Reading(
        what="CLEVER score: an estimate of the distance to the boundary", unit="image units", sign=1, states="estimated robust"
    ),
    "smoothing-radius": Reading(what="certified l2 radius of the smoothed classifier", unit="l2", sign=1, proof=True),
    "ibp-margin": Reading(
        what="lower bound of the margin by interval propagation", unit="logits", sign=1, states="certified", proof=True
    ),
    "crown-ibp-margin": Reading(
        what="lower bound of the margin by CROWN-IBP", unit="logits", sign=1, states="certified", proof=True
    ),
}


def stated(name: str, values: PerSample, threat: Threat, options: Mapping[str, Any]) -> Outcomes | None:
    """For which samples the measure says what its reading states: the loss below the limit under which the label wins, a score above eps,
    a margin or a slack above 0. None for measures that state nothing."""
    reading = READINGS[name]
    if reading.states is None:
        return None
    limit = {"linear-bound": 0.0 if options.get("loss") == "margin" else LOG2, "clever": threat.eps}.get(name, 0.0)
    return reading.sign * values > reading.sign * limit
