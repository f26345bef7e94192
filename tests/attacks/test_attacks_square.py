"""Square: windows, shapes and the order of queries."""

import importlib
from math import inf

import pytest
import torch
from known_answers import L2, Net
from torch import Tensor, nn

from kdiga.attacks import reference
from kdiga.attacks.packing import right
from kdiga.attacks.windows import bumps, inside, tiles, window
from kdiga.types import Threat

square = importlib.import_module("kdiga.attacks.square")  # kdiga.attacks.square is the function


def package(norm: str) -> object:
    return reference.build_square(nn.Identity(), 2, norm=norm, eps=0.1, seed=0, device="cpu", verbose=False)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 32), (8, 8), (20, 12)])
def test_the_windows_shrink_as_in_the_package(height: int, width: int) -> None:
    theirs = package("Linf")
    for query in range(5000):
        p = theirs.p_selection(query)  # type: ignore[attr-defined]
        expected = min(max(round((p * height * width) ** 0.5), 1), height, width)
        assert square.side(query, height, width) == expected


@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 9, 25])
def test_the_bumps_are_those_of_the_package(side: int) -> None:
    theirs = package("L2")
    theirs.device = "cpu"  # type: ignore[attr-defined]
    ours = bumps(torch.zeros(1, 1, 1, 1), [side, 27])[0]
    assert ours.shape == (2, 27, 27)
    assert ours[:, side:].abs().sum() + ours[:, :, side:].abs().sum() == 0
    for _ in range(8):
        expected = theirs.eta(side)  # type: ignore[attr-defined]
        assert any(torch.allclose(u[:side, :side], expected, atol=1e-6) for u in ours)
    torch.testing.assert_close(ours.flatten(1).norm(dim=1), torch.ones(2))


def test_windows_are_squares_and_fall_everywhere() -> None:
    torch.manual_seed(0)
    x, sides = torch.zeros(4000, 2, 7, 9), torch.arange(4000) % 6 + 1
    at = window(x, sides)
    pixels = inside(at, sides)
    assert pixels.shape == (4000, 1, 7, 9)
    assert torch.equal(pixels.sum((1, 2, 3)), sides**2)
    down, across = pixels[:, 0].any(2).sum(1), pixels[:, 0].any(1).sum(1)
    assert torch.equal(down, sides)
    assert torch.equal(across, sides)
    one = pixels[sides == 1, 0].float().mean(0)
    assert one.min() > 0.3 / 63
    assert one.max() < 2.5 / 63


def test_the_start_under_l2_is_at_distance_eps_and_in_tiles() -> None:
    x = torch.full((3, 2, 28, 28), 0.5)
    d = tiles(x, L2) - x
    torch.testing.assert_close(d.flatten(1).norm(dim=1), torch.full((3,), L2.eps))
    assert d[:, :, 0].abs().max() == d[:, :, 26:].abs().max() == 0  # five tiles of five, one pixel from the corner
    blocks = d[:, :, 1:26, 1:26].unflatten(3, (5, 5)).unflatten(2, (5, 5)).square().sum((3, 5))
    torch.testing.assert_close(blocks, torch.full((3, 2, 5, 5), L2.eps**2 / 50))


def test_a_swap_moves_mass_between_two_windows_and_leaves_the_rest() -> None:
    torch.manual_seed(1)
    x = torch.full((50, 2, 12, 12), 0.5)
    best = tiles(x, L2)
    after = square._swaps(x, L2, 3000)(x, best, torch.full((50,), 2999))
    torch.testing.assert_close((after - x).flatten(1).norm(dim=1), torch.full((50,), L2.eps))
    changed = ((after - best).abs() > 1e-7).any(1).flatten(1).sum(1)
    assert changed.max() <= 2 * 3 * 3
    assert (changed > 0).all()
    emptied = ((after == x).all(1) & (best != x).any(1)).flatten(1).sum(1)
    assert emptied.float().mean() > 2


def test_a_flip_sets_a_window_to_one_side_of_the_ball() -> None:
    torch.manual_seed(1)
    threat = Threat(norm=inf, eps=0.1)
    x = 0.2 + 0.6 * torch.rand(50, 2, 12, 12)
    after = square._flips(x, threat, 3000)(x, x, torch.full((50,), 700))
    d = after - x
    assert torch.equal((d != 0).all(1).sum((1, 2)), torch.full((50,), square.side(700, 12, 12) ** 2))
    torch.testing.assert_close(d[d != 0].abs(), torch.full_like(d[d != 0], 0.1))
    assert all(len(channel[channel != 0].sign().unique()) == 1 for image in d for channel in image)
    assert d.sum((2, 3)).sign().unique().tolist() == [-1, 1]


@pytest.mark.parametrize("norm", [inf, 2.0])
def test_asking_ahead_changes_nothing(norm: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With draws that depend only on the sample and the number of the query."""
    model, threat = Net(4).eval().requires_grad_(False), Threat(norm=norm, eps=0.06 if norm == inf else 0.2)
    x = torch.rand(8, 1, 6, 6)
    y = model(x).argmax(1)
    name = "_flips" if norm == inf else "_swaps"
    build = getattr(square, name)

    def fixed(x: Tensor, threat: Threat, queries: int) -> object:
        change, known = build(x, threat, queries), x

        def one_by_one(u: Tensor, best: Tensor, query: Tensor) -> Tensor:
            made = []
            for v, b, q in zip(u, best, query, strict=True):
                torch.manual_seed(1000 * int((known == v).flatten(1).all(1).int().argmax()) + int(q))
                made.append(change(v[None], b[None], q[None]))
            return torch.cat(made)

        return one_by_one

    monkeypatch.setattr(square, name, fixed)
    found = []
    for ahead in (1, 8):
        monkeypatch.setattr(square, "AHEAD", ahead)
        torch.manual_seed(0)
        found.append(square.search(model, x, y, threat, queries=40))
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-6, rtol=0)
    assert 0 < found[0][1].sum() < 8
    assert torch.equal(right(model(found[0][0]), y), ~found[0][1])


def test_queries_that_change_nothing_are_counted_and_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A black image: half of the windows are drawn with the sign that leaves it black."""
    asked, drawn = [0], [0]

    class Dark(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            asked[0] += len(x)
            return torch.stack((1 + x.flatten(1).sum(1), -x.flatten(1).sum(1)), 1)  # white is worse for the attack

    build = square._flips

    def counted(x: Tensor, threat: Threat, queries: int) -> object:
        change = build(x, threat, queries)

        def noted(u: Tensor, best: Tensor, query: Tensor) -> Tensor:
            drawn[0] += len(u)
            made: Tensor = change(u, best, query)
            return made

        return noted

    monkeypatch.setattr(square, "_flips", counted)
    torch.manual_seed(0)
    _, broken = square.search(
        Dark(), torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64), Threat(norm=inf, eps=0.1), queries=500
    )
    assert not broken.any()
    assert drawn[0] >= 2000
    assert asked[0] < 0.7 * drawn[0]
