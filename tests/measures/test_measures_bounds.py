"""Bounds of margins: never violated by any point that is found, exact where the network is linear, and refused where they are not known."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdiga.bounds import box, intervals, margins, record
from kdiga.errors import BadInput
from kdiga.measures import MEASURES
from kdiga.models import load
from kdiga.types import Threat

ACTS: list[nn.Module] = [
    nn.ReLU6(),
    nn.LeakyReLU(0.1),
    nn.ELU(),
    nn.Hardswish(),
    nn.SiLU(),
    nn.GELU(),
    nn.Mish(),
    nn.Tanh(),
    nn.Sigmoid(),
]
BOTH = pytest.mark.parametrize("relax", [False, True])


def linf(eps: float) -> Threat:
    return Threat(norm=math.inf, eps=eps)


class Residual(nn.Module):
    """One block after activation, one before it, as in our ResNets; a shortcut that is a step and one that is none."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.short = nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Conv2d(2, 4, 1, 2)
        self.second, self.linear = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)
        self.register_buffer("mean", torch.rand(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / 0.3
        x = torch.relu(self.norm(self.first(x)) + self.short(x))
        x = x + self.second(F.relu(x))
        z: Tensor = self.linear((1 - 2 * x).mean((2, 3)))
        return z


def conv(*more: nn.Module, act: nn.Module | None = None) -> nn.Sequential:
    """2x6x6 images; `more` comes before the head."""
    act = act or nn.ReLU()
    layers = [
        nn.Conv2d(2, 6, 3, padding=1, groups=2),
        nn.BatchNorm2d(6),
        act,
        nn.Conv2d(6, 8, 3, stride=2, dilation=2, padding=1),
        act,
    ]
    return nn.Sequential(*layers, *more, nn.Flatten(), nn.LazyLinear(5), nn.BatchNorm1d(5), act, nn.Dropout(), nn.Linear(5, 3))


NETS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)),
    "conv": conv,
    "average": lambda: conv(nn.AvgPool2d(2, 1, 1)),
    "global": lambda: conv(nn.AdaptiveAvgPool2d(1)),
    "residual": Residual,
}
IBP_ONLY: dict[str, Callable[[], nn.Module]] = {"max": lambda: conv(nn.MaxPool2d(2, 1, 1))}
IBP_ONLY |= {type(act).__name__: lambda act=act: conv(act=act) for act in ACTS}  # type: ignore[misc]
CASES = [(name, relax) for name in NETS for relax in (False, True)] + [(name, False) for name in IBP_ONLY]


def trained(build: Callable[[], nn.Module], seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in float64 with statistics and signs as a trained one has, four images, some of them on the box's edge, and labels."""
    torch.manual_seed(seed)
    model = build().double()
    model(torch.rand(2, 2, 6, 6, dtype=torch.float64))
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            for value in (m.running_mean, m.weight.data, m.bias.data):
                assert value is not None
                value.normal_()
            assert m.running_var is not None
            m.running_var.uniform_(0.3, 2)
    return (
        model.eval().requires_grad_(False),
        torch.rand(4, 2, 6, 6, dtype=torch.float64).mul(1.2).clamp_max(1),
        torch.randint(3, (4,)),
    )


def bounds(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, relax: bool) -> Tensor:
    with torch.no_grad():
        steps, _ = record(model, x[:1])
        return margins(steps, intervals(steps, box(x, linf(eps))), y, relax=relax)


def margin(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    z = model(x)
    gaps: Tensor = z.gather(1, y[:, None]) - z
    return gaps


def least_found(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The smallest value of each margin at random points of the box, at its corners, and at the ends of gradient descents."""
    low, high = box(x, linf(eps))
    found = margin(model, x, y)
    for i in range(30):
        where = torch.rand_like(x) if i % 2 else torch.rand_like(x).round()
        found = torch.minimum(found, margin(model, low + where * (high - low), y))
    for j in range(found.shape[1]):
        u = x.clone()
        for _ in range(8):
            u = u.detach().requires_grad_()
            (g,) = torch.autograd.grad(margin(model, u, y)[:, j].sum(), u)
            u = torch.minimum(torch.maximum(u.detach() - eps / 4 * g.sign(), low), high)
            found = torch.minimum(found, margin(model, u, y))
    return found.detach()


@pytest.mark.parametrize(("name", "relax"), CASES)
def test_no_point_of_the_ball_is_below_the_bound(name: str, relax: bool) -> None:
    for seed in range(2):
        model, x, y = trained((NETS | IBP_ONLY)[name], seed)
        for eps in (0.003, 0.1):
            assert (least_found(model, x, y, eps) >= bounds(model, x, y, eps, relax=relax) - 1e-9).all()


@pytest.mark.parametrize(("name", "relax"), CASES)
def test_at_eps_0_the_bound_is_the_margin_and_it_falls_with_eps(name: str, relax: bool) -> None:
    model, x, y = trained((NETS | IBP_ONLY)[name], 5)
    found = torch.stack([bounds(model, x, y, eps, relax=relax) for eps in (0.0, 0.002, 0.01, 0.05, 0.3)])
    assert torch.allclose(found[0], margin(model, x, y), atol=1e-9)
    assert (found.diff(dim=0) <= 1e-9).all()
    assert (found.gather(2, y.expand(5, 4)[:, :, None]).abs() < 1e-9).all()


@BOTH
def test_a_linear_network_is_bounded_exactly(relax: bool) -> None:
    """Its least margin is at a corner: m(centre) - |grad m| . radius."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
            self.head = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(4, 4, 3, 2, 1, groups=4), nn.Flatten(), nn.Linear(16, 3))

        def forward(self, x: Tensor) -> Tensor:
            z: Tensor = self.head(self.norm(self.a(x) + self.b(x)))
            return z

    model, x, y = trained(Linear, 0)
    low, high = (x - 0.2).clamp_min(0), (x + 0.2).clamp_max(1)
    centre = ((low + high) / 2).requires_grad_()
    for j in range(3):
        m = margin(model, centre, y)[:, j]
        (g,) = torch.autograd.grad(m.sum(), centre)
        exact = m - (g.abs() * (high - low) / 2).flatten(1).sum(1)
        assert torch.allclose(bounds(model, x, y, 0.2, relax=relax)[:, j], exact.detach(), atol=1e-9)


@pytest.mark.parametrize(("centre", "ibp", "crown"), [(0.25, -1.0, -0.5), (-0.25, -0.5, -0.5)])
def test_two_equal_units_by_hand(centre: float, ibp: float, crown: float) -> None:
    """z_0 = z_1 = relu(u), by a unit each, with u within 0.75 of `centre`: the margin is 0. Intervals say -high. With lines, the lower is
    u for u in [-0.5, 1] and 0 for u in [-1, 0.5], the upper high (u - low) / 1.5, and the difference is least, -1/2, at u = low or high."""
    units, head = nn.Linear(1, 2), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        units.weight.fill_(3.0)  # x = 0.5, eps = 0.25: u = 3 (x - 0.5) + centre
        units.bias.fill_(centre - 1.5)
        head.weight.copy_(torch.eye(2))
    model = nn.Sequential(nn.Flatten(), units, nn.ReLU(), head).double()
    x, y = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64), torch.tensor([0])
    assert MEASURES["ibp-margin"](model, x, y, linf(0.25)).item() == pytest.approx(ibp)
    assert MEASURES["crown-ibp-margin"](model, x, y, linf(0.25)).item() == pytest.approx(crown)


def test_lines_are_tighter_than_intervals_on_average() -> None:
    gains = []
    for seed in range(10):
        model, x, y = trained(conv, seed)
        gains.append((bounds(model, x, y, 0.02, relax=True) - bounds(model, x, y, 0.02, relax=False)).mean().item())
    assert sum(gains) / len(gains) > 0
    assert sum(g > 0 for g in gains) >= 8


@pytest.mark.parametrize("act", ACTS, ids=lambda a: type(a).__name__)
def test_the_interval_of_an_activation_is_its_range(act: nn.Module) -> None:
    """Against a fine grid, on intervals left of, right of and around each activation's lowest point."""
    ends = torch.linspace(-5, 7, 25, dtype=torch.float64)
    low, high = (e.flatten()[:, None] for e in torch.meshgrid(ends, ends, indexing="ij"))
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    steps, _ = record(nn.Sequential(act, nn.Flatten()), low[:, :, None, None])
    least, most = intervals(steps, (low, high))[1]
    grid = act(low + torch.linspace(0, 1, 2001, dtype=torch.float64) * (high - low))
    assert (grid.amin(1, keepdim=True) >= least - 1e-12).all()
    assert (grid.amax(1, keepdim=True) <= most + 1e-12).all()
    assert torch.allclose(grid.amin(1, keepdim=True), least, atol=1e-4)
    assert torch.allclose(grid.amax(1, keepdim=True), most, atol=1e-4)


@pytest.mark.parametrize("spec", ["cnn?width=8", "preact-resnet-18", "wrn-10-1", "mobilenet-v2", "cnn?width=8&act=gelu"])
def test_our_models_are_known_and_bounded(spec: str) -> None:
    torch.manual_seed(0)
    model = load(spec, shape=(3, 8, 8), classes=4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)).eval()
    x, y = torch.rand(2, 3, 8, 8), torch.tensor([0, 3])
    for name in ("ibp-margin", "crown-ibp-margin")[: 1 if "gelu" in spec else 2]:
        at_x = margin(model, x, y).detach().scatter(1, y[:, None], math.inf).amin(1)
        assert torch.allclose(MEASURES[name](model, x, y, linf(0.0)), at_x, atol=1e-5)
        found = MEASURES[name](model, x, y, linf(1e-4))
        u = x + 1e-4 * torch.randn_like(x).sign()
        assert (margin(model, u.clamp(0, 1), y).scatter(1, y[:, None], math.inf).amin(1) >= found - 1e-5).all()
        assert (found < at_x).all()


class Calls(nn.Module):
    """A linear head after any function of the images."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function, self.linear = function, nn.Linear(72, 3)
        self.kept, self.kernel = nn.Parameter(torch.rand(2, 1, 1)), nn.Parameter(torch.rand(2, 2, 3, 3))
        self.single = nn.Parameter(torch.rand(2, 1, 3, 3))
        self.register_buffer("two", torch.rand(2))

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.linear(self.function(self, x).flatten(1))
        return z


REFUSED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "softmax": lambda _, x: x.softmax(1),
    "pow": lambda _, x: x**2,
    "relu_": lambda _, x: (x * 1).relu_(),
    "relu is": lambda _, x: F.relu(x * 1, inplace=True),
    "add_": lambda m, x: (x * 1).add_(m.kept),
    "pad": lambda _, x: F.pad(x, (1, 1, 1, 1)),
    "mul": lambda _, x: x * x,
    "mul' reads another": lambda m, x: x * m.kept.exp(),
    "add' reads another": lambda _, x: x + torch.ones(1),
    "traced back": lambda m, x: m.kept.expand(x.shape),
    "add' from": lambda _, x: x.mean(1, keepdim=True) + x,
    "add' with": lambda _, x: torch.add(x, 1.0, alpha=2.0),
    "add' with these arguments: alpha": lambda _, x: torch.add(x, x * 2, alpha=10.0),
    "add' with these arguments: other, alpha": lambda _, x: torch.add(x, other=x * 2, alpha=-1.0),
    "sub' of one": lambda _, x: x - x * 0.5,
    "mul' with these arguments: out": lambda m, x: torch.mul(x, 2.0, out=m.kept),
    "in place: tanh": lambda m, x: torch.tanh(x, out=m.kept),
    "div' with these arguments: rounding_mode": lambda _, x: torch.div(x, 0.3, rounding_mode="floor"),
    "divisor": lambda _, x: F.avg_pool2d(x, 2, None, 0, False, True, -1),
    "over the batch": lambda _, x: x.mean((), keepdim=True),
    "mean over the batch": lambda _, x: x.mean(),
    "conv2d' from": lambda m, x: F.conv2d(x.mean(1), m.single),  # the batch is taken for the channels
    "tanh": lambda _, x: F.gelu(x, approximate="tanh"),
    "slope": lambda _, x: F.leaky_relu(x, -0.1),
    "batch": lambda _, x: x.mean(0, keepdim=True),
    "running statistics": lambda _, x: F.batch_norm(x, None, None, training=True),
    "dropout": lambda _, x: F.dropout(x, training=True),
    "padding 'same'": lambda m, x: F.conv2d(x, m.kernel, padding="same"),
    "sum": lambda _, x: x if x.sum().item() > 0 else 1 - x,
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_a_step_that_is_not_known_is_refused_by_name(what: str) -> None:
    model = Calls(REFUSED[what]).eval()
    with pytest.raises(BadInput, match=what):
        MEASURES["ibp-margin"](model, torch.rand(2, 2, 6, 6), torch.tensor([0, 1]), linf(0.1))


SPELLED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "relu6": lambda _, x: F.relu6(9 * x),
    "hardtanh": lambda _, x: F.hardtanh(x, 0.2, max_val=0.6),
    "elu": lambda _, x: F.elu(x - 0.5, alpha=2.0),
    "by keyword": lambda m, x: F.conv2d(input=x, weight=m.kernel, bias=m.two, stride=2),
    "flatten": lambda _, x: torch.flatten(x, start_dim=1),
    "reshape": lambda _, x: x.reshape(shape=(len(x), -1)),
    "avg": lambda _, x: F.avg_pool2d(x, kernel_size=3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
    "avg in order": lambda _, x: F.avg_pool2d(x, 4, 3, 1, True, False, 5),
    "adaptive": lambda _, x: F.adaptive_avg_pool2d(x, output_size=(3, 1)),
    "max": lambda _, x: F.max_pool2d(x, kernel_size=2, stride=3, padding=1, dilation=2, ceil_mode=True),
    "mean": lambda _, x: torch.mean(input=x, dim=(-1, 2), keepdim=True),
    "constants": lambda m, x: torch.add(torch.mul(x, other=m.kept), other=m.kept),
    "branches": lambda _, x: torch.add(input=x * 2, other=-1 * x),
    "batch_norm": lambda m, x: F.batch_norm(x, m.two, m.two, eps=0.5),
}


@pytest.mark.parametrize("how", list(SPELLED))
def test_the_arguments_of_a_step_are_its_own_however_they_are_written(how: str) -> None:
    def build() -> nn.Module:
        model = Calls(SPELLED[how])
        model.linear = nn.LazyLinear(3)
        return model

    model, x, y = trained(build, 0)
    assert torch.allclose(bounds(model, x, y, 0.0, relax=False), margin(model, x, y), atol=1e-9)
    assert (least_found(model, x, y, 0.1) >= bounds(model, x, y, 0.1, relax=False) - 1e-9).all()


def test_autocast_is_refused_as_such() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(BadInput, match=r"float32 or float64 .* without autocast"):
        record(model, torch.rand(1, 2, 6, 6))


def test_no_images_have_no_margins() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    for name in ("ibp-margin", "crown-ibp-margin"):
        assert MEASURES[name](model, torch.rand(0, 2, 6, 6), torch.empty(0, dtype=torch.int64), linf(0.1)).shape == (0,)


def test_sums_and_products_with_constants_come_in_any_order() -> None:
    model = Calls(lambda m, x: 2 - (m.kept + (1 + 3 * x) / m.kept - m.kept) * m.kept).double().eval().requires_grad_(False)
    x, y = torch.rand(2, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1])
    assert (least_found(model, x, y, 0.1) >= bounds(model, x, y, 0.1, relax=False) - 1e-9).all()
    assert torch.allclose(bounds(model, x, y, 0.0, relax=True), margin(model, x, y))


def test_lines_are_refused_where_they_are_not_known() -> None:
    x, y = torch.rand(2, 2, 6, 6), torch.tensor([0, 1])
    for layer in (nn.GELU(), nn.MaxPool2d(2)):
        model = nn.Sequential(nn.Conv2d(2, 2, 1), layer, nn.Flatten(), nn.LazyLinear(3))
        model(x)
        with pytest.raises(BadInput, match=r"for '(gelu|max_pool2d)' use ibp-margin"):
            MEASURES["crown-ibp-margin"](model, x, y, linf(0.1))
    for name in ("ibp-margin", "crown-ibp-margin"):
        with pytest.raises(BadInput, match="linf threats"):
            MEASURES[name](nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), x, y, Threat(norm=2.0, eps=0.5))


@pytest.mark.parametrize("name", ["ibp-margin", "crown-ibp-margin"])
def test_the_model_is_left_and_images_are_their_own(name: str) -> None:
    model, x, y = trained(NETS["conv"], 0)
    model = model.float().requires_grad_(True).train()
    x = torch.cat([x.float()] * 20)  # more than go back together
    y, before = torch.cat([y] * 20), {k: v.clone() for k, v in model.state_dict().items()}
    found = MEASURES[name](model, x, y, linf(0.01))
    assert torch.equal(found.view(20, 4), found[:4].expand(20, 4))
    assert torch.allclose(found[:1], MEASURES[name](model, x[:1], y[:1], linf(0.01)))
    assert found.dtype == torch.float32
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
