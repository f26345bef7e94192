"""Split and carve."""

import pytest
import torch

from kdiga.data import Dataset, Split, carve, load
from kdiga.data.splits import checked
from kdiga.errors import BadInput


def numbered(sizes: list[int]) -> Split:
    """Images that hold their own row number, `sizes[k]` of class k, mixed."""
    y = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    n = len(y)
    row = torch.arange(n)
    return Split(
        torch.stack([row // 256, row % 256], 1).to(torch.uint8)[:, :, None, None],
        y[torch.randperm(n, generator=torch.Generator().manual_seed(0))],
    )


def rows(split: Split) -> list[int]:
    return [int(256 * high + low) for high, low in split.x[:, :, 0, 0].tolist()]


def test_images_by_slice_and_by_rows() -> None:
    split = numbered([300])
    assert torch.equal(split.images(slice(256, 258))[:, :, 0, 0], torch.tensor([[1, 0], [1, 1]]) / 255)
    assert torch.equal(split.images(torch.tensor([5, 5, 0]))[:, 1, 0, 0], torch.tensor([5, 5, 0]) / 255)
    assert torch.equal(split.images()[:, 1, 0, 0] * 255, torch.arange(300).remainder(256).float())


def test_images_are_a_copy() -> None:
    split = numbered([4])
    split.images().add_(1)
    assert rows(split) == [0, 1, 2, 3]


def test_to_moves_both_tensors() -> None:
    there = numbered([4]).to("meta")
    assert there.x.device.type == there.y.device.type == "meta"


def test_carve_parts_the_rows_and_keeps_their_order() -> None:
    split = numbered([40, 30, 30])
    rest, aside = carve(split, 20, seed=3)
    assert (len(rest), len(aside)) == (80, 20)
    assert sorted(rows(rest) + rows(aside)) == list(range(100))
    assert rows(rest) == sorted(rows(rest))
    assert rows(aside) == sorted(rows(aside))
    assert torch.equal(split.y[rows(aside)], aside.y)
    assert torch.equal(split.y[rows(rest)], rest.y)


@pytest.mark.parametrize(
    ("sizes", "n", "expected"),
    [
        ([40, 30, 30], 20, [8, 6, 6]),
        ([70, 20, 10], 7, [5, 1, 1]),  # shares 4.9, 1.4, 0.7: the two largest remainders are rounded up
        ([0, 5, 5], 4, [0, 2, 2]),
        ([10], 0, [0]),
    ],
)
def test_carve_gives_each_class_its_share(sizes: list[int], n: int, expected: list[int]) -> None:
    _, aside = carve(numbered(sizes), n, seed=0)
    assert torch.bincount(aside.y, minlength=len(sizes)).tolist() == expected


def test_carve_depends_on_the_seed_only() -> None:
    split = numbered([50, 50])
    torch.manual_seed(0)
    one = rows(carve(split, 30, seed=1)[1])
    torch.manual_seed(1)
    assert rows(carve(split, 30, seed=1)[1]) == one
    assert rows(carve(split, 30, seed=2)[1]) != one


def test_carve_draws_every_row_equally_often() -> None:
    split = numbered([8, 4])
    times = torch.zeros(12)
    for seed in range(300):
        times[rows(carve(split, 3, seed=seed)[1])] += 1
    assert float(times.sum()) == 900
    assert 45 < float(times.min()) <= float(times.max()) < 105  # 75 expected, standard deviation 7.5


@pytest.mark.parametrize("n", [-1, 10, 11])
def test_carve_refuses_sizes_that_leave_nothing(n: int) -> None:
    with pytest.raises(BadInput, match="out of 10: use 0 to 9"):
        carve(numbered([10]), n, seed=0)


def test_digits_hold_out_the_same_360_images_for_ever() -> None:
    d = load("digits")
    assert (len(d.train), len(d.test), d.shape, d.crop, d.flip) == (1437, 360, (1, 8, 8), 0, False)
    assert torch.bincount(d.test.y).min() >= 35
    # Numbers that would change with any other choice of test images.
    assert d.test.y[:12].tolist() == [4, 5, 6, 9, 4, 7, 8, 9, 9, 6, 9, 9]
    assert int((d.test.x.long().sum((1, 2, 3)) * torch.arange(360)).sum()) == 318945248


def test_digits_are_parted_and_scaled() -> None:
    from sklearn.datasets import load_digits

    d, published = load("digits"), load_digits()
    whole = torch.cat([d.train.x, d.test.x]).flatten(1)
    expected = (torch.from_numpy(published.data) * 255 / 16).round().to(torch.uint8)
    assert sorted(map(tuple, whole.tolist())) == sorted(map(tuple, expected.tolist()))
    train = set(map(tuple, d.train.x.flatten(1).tolist()))
    assert len(train) == 1437
    assert not train & set(map(tuple, d.test.x.flatten(1).tolist()))


def test_unusable_splits_are_refused() -> None:
    x, y = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2])
    with pytest.raises(BadInput, match="here: 3 images but 2 labels"):
        checked(x, y[:2], 3, "here")
    with pytest.raises(BadInput, match=r"here: label 2 is outside 0 .. 1"):
        checked(x, y, 2, "here")
    with pytest.raises(BadInput, match=r"here: label -1 is outside 0 .. 2"):
        checked(x, y - 1, 3, "here")
    with pytest.raises(BadInput, match="here holds no images"):
        checked(x[:0], y[:0], 3, "here")
    with pytest.raises(BadInput, match=r"training images have shape \(1, 2, 2\), test images \(1, 2, 1\)"):
        Dataset("made", Split(x, y), Split(x[..., :1], y), ("a", "b", "c"), crop=0, flip=False)
