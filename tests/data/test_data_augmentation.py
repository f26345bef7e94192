"""augment, against the shifts and mirror images written out one by one."""

import pytest
import torch
import torch.nn.functional as F

from kdiga.data import augment
from kdiga.errors import BadInput
from kdiga.types import Images


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shifts(x: Images, p: int) -> list[Images]:
    """Every crop of the padded images, top left first."""
    h, w = x.shape[2:]
    padded = F.pad(x, (p, p, p, p))
    return [padded[:, :, i : i + h, j : j + w] for i in range(2 * p + 1) for j in range(2 * p + 1)]


@pytest.mark.parametrize("crop", [1, 2, 5])
@pytest.mark.parametrize("flip", [False, True])
def test_each_image_is_a_shift_of_itself_or_of_its_mirror_image(crop: int, flip: bool) -> None:
    x = torch.rand(40, 3, 5, 4, generator=g(1)) + 0.1
    y = augment(x, crop=crop, flip=flip, generator=g())
    options = shifts(x, crop)
    allowed = options + [o.flip(3) for o in options] if flip else options
    assert torch.stack([(y == o).flatten(1).all(1) for o in allowed]).any(0).all()


def test_every_shift_is_drawn_equally_often_with_rows_and_columns_independent() -> None:
    x = (torch.arange(24.0).view(1, 1, 4, 6) + 1).expand(4500, 1, 4, 6)
    y = augment(x, crop=1, flip=False, generator=g())
    counts = torch.stack([(y == o).flatten(1).all(1) for o in shifts(x, 1)]).sum(1)
    assert int(counts.sum()) == 4500
    assert 400 < int(counts.min()) <= int(counts.max()) < 600  # 500 expected, standard deviation 21


def test_half_of_the_images_are_mirrored() -> None:
    x = torch.rand(4000, 1, 3, 3, generator=g(1))
    y = augment(x, crop=0, flip=True, generator=g())
    mirrored = (y == x.flip(3)).flatten(1).all(1)
    assert torch.equal(y[~mirrored], x[~mirrored])
    assert 1870 < int(mirrored.sum()) < 2130  # 2000 expected, standard deviation 32


def test_shift_and_mirror_are_independent() -> None:
    x = torch.rand(1, 1, 3, 3, generator=g(1)).expand(7200, 1, 3, 3)
    y = augment(x, crop=1, flip=True, generator=g())
    # The crop is taken at the drawn place; the mirror image is of what was cut out.
    counts = torch.stack([(y == o).flatten(1).all(1) for s in shifts(x, 1) for o in (s, s.flip(3))]).sum(1)
    assert int(counts.sum()) == 7200
    assert 300 < int(counts.min()) <= int(counts.max()) < 500  # 400 expected, standard deviation 19


def test_the_generator_decides_everything() -> None:
    x = torch.rand(64, 3, 8, 8, generator=g(1))
    torch.manual_seed(0)
    one = augment(x, crop=2, flip=True, generator=g(5))
    torch.manual_seed(1)
    assert torch.equal(augment(x, crop=2, flip=True, generator=g(5)), one)
    assert not torch.equal(augment(x, crop=2, flip=True, generator=g(6)), one)


def test_the_input_is_left_alone_and_nothing_to_do_returns_it() -> None:
    x = torch.rand(8, 3, 8, 8, generator=g(1))
    before, state = x.clone(), g().get_state()
    y = augment(x, crop=2, flip=True, generator=g())
    assert torch.equal(x, before)
    assert y.is_contiguous()
    generator = g()
    assert augment(x, crop=0, flip=False, generator=generator) is x
    assert torch.equal(generator.get_state(), state)


def test_images_on_another_device_with_a_cpu_generator() -> None:
    x = torch.rand(8, 3, 8, 8, device="meta")
    assert augment(x, crop=2, flip=True, generator=g()).device.type == "meta"


def test_negative_padding_is_refused() -> None:
    with pytest.raises(BadInput, match="at least 0, got -1"):
        augment(torch.rand(2, 1, 4, 4), crop=-1, flip=False, generator=g())
