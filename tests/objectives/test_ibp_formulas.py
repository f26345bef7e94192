"""`ibp` against its formula, written out for one network with centre and radius replaced by lower and upper ends."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdiga.errors import BadInput
from kdiga.objectives import ibp
from kdiga.types import Batch, Threat

THREAT = Threat(norm=math.inf, eps=0.1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 8), nn.ReLU(), nn.Linear(8, 4)
    ).double()


def batch() -> Batch:
    torch.manual_seed(1)
    x = (1.4 * torch.rand(6, 2, 5, 5, dtype=torch.float64) - 0.2).clamp(0, 1)  # some at 0, some at 1
    return Batch(x, torch.tensor([0, 1, 2, 3, 0, 1]), torch.arange(6))


def ends(layer: nn.Linear | nn.Conv2d, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """W+ low + W- high + b and W+ high + W- low + b."""

    def apply(v: Tensor, w: Tensor) -> Tensor:
        return F.linear(v, w) if isinstance(layer, nn.Linear) else F.conv2d(v, w)

    positive, negative = layer.weight.clamp_min(0), layer.weight.clamp_max(0)
    b = layer.bias if isinstance(layer, nn.Linear) else layer.bias[:, None, None] if layer.bias is not None else 0
    return apply(low, positive) + apply(high, negative) + b, apply(high, positive) + apply(low, negative) + b


def transcribed(net: nn.Sequential, b: Batch, eps: float, kappa: float) -> tuple[Tensor, Tensor]:
    conv, norm, _, _, hidden, _, head = net
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(hidden, nn.Linear)
    assert isinstance(head, nn.Linear)
    clean = conv(b.x)
    mean, sd = clean.mean((0, 2, 3), keepdim=True), (clean.var((0, 2, 3), correction=0, keepdim=True) + norm.eps).sqrt()
    low, high = ends(conv, (b.x - eps).clamp_min(0), (b.x + eps).clamp_max(1))
    gain, shift = (p[:, None, None] for p in (norm.weight, norm.bias))
    both = [(v - mean) / sd * gain + shift for v in (low, high)]
    low, high = (F.relu(v).flatten(1) for v in (torch.minimum(*both), torch.maximum(*both)))
    low, high = (F.relu(v) for v in ends(hidden, low, high))
    logits = []
    for i, y in enumerate(b.y):
        w, c = head.weight - head.weight[y], head.bias - head.bias[y]
        logits.append(w.clamp_min(0) @ high[i] + w.clamp_max(0) @ low[i] + c)
    return kappa * F.cross_entropy(net(b.x), b.y, reduction="none"), (1 - kappa) * F.cross_entropy(
        torch.stack(logits), b.y, reduction="none"
    )


@pytest.mark.parametrize(("progress", "share"), [(0.1, 0.25), (0.3, 0.75), (0.4, 1.0), (0.9, 1.0)])
def test_the_terms_and_their_gradients_are_the_formula(progress: float, share: float) -> None:
    """Both ramps at once; BatchNorm with negative scale and the clean batch's statistics."""
    b, gradients = batch(), []
    for ours in (True, False):
        net = network()
        with torch.no_grad():
            net[1].weight.copy_(torch.linspace(-1, 1.5, 6))  # type: ignore[operator]
        if ours:
            terms = ibp(net, None, b, progress, threat=THREAT, final_kappa=0.2, ramp=0.4)
            found = torch.stack([terms["ce"], terms["bound"]])
        else:
            expected = torch.stack(transcribed(net, b, share * 0.1, 1 - 0.8 * share))
        (found if ours else expected).sum().backward()
        gradients.append([p.grad for p in net.parameters()])
    assert torch.allclose(found, expected, atol=1e-9)
    assert all(a is not None and c is not None and torch.allclose(a, c, atol=1e-9) for a, c in zip(*gradients, strict=True))


def test_it_starts_as_plain_training_and_without_a_ramp_it_does_not() -> None:
    net, b = network(), batch()
    start = ibp(net, None, b, 0.0, threat=THREAT)
    assert torch.allclose(start["ce"], F.cross_entropy(net(b.x), b.y, reduction="none"))
    assert start["bound"].abs().max().item() == 0
    at_once = ibp(net, None, b, 0.0, threat=THREAT, ramp=0.0)
    assert (at_once["bound"] >= at_once["ce"]).all()  # kappa 1/2: of the worst logits and of the clean ones


def test_l2_threats_and_networks_that_cannot_be_bounded_are_refused() -> None:
    with pytest.raises(BadInput, match="linf"):
        ibp(network(), None, batch(), 0.5, threat=Threat(norm=2.0, eps=0.5))
    with pytest.raises(BadInput, match="layer_norm"):
        ibp(nn.Sequential(nn.Flatten(), nn.LayerNorm(50), nn.Linear(50, 4)).double(), None, batch(), 0.5, threat=THREAT)
