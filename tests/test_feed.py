"""What a step sees: order, extra images and replays are functions of the seed and the step."""

import torch

from kdiga.data import Split
from kdiga.feed import Feed


def split(n: int, first: int = 0) -> Split:
    """Image i is all i: it says which one it is."""
    values = torch.arange(first, first + n, dtype=torch.uint8)
    return Split(values[:, None, None, None].expand(n, 1, 4, 4).contiguous(), torch.arange(n) % 3)


def shown(feed: Feed, step: int) -> list[int]:
    return (feed(step).x[:, 0, 0, 0] * 255).round().long().tolist()


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order() -> None:
    feed = Feed(split(40), batch_size=8, seed=0)
    first, second = ([i for step in range(5) for i in shown(feed, 5 * epoch + step)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert shown(feed, 3) == shown(Feed(split(40), batch_size=8, seed=0), 3)
    assert shown(feed, 3) != shown(Feed(split(40), batch_size=8, seed=1), 3)


def test_rows_labels_and_images_belong_together() -> None:
    batch = Feed(split(40), batch_size=8, seed=0, extra=split(50, 100), extra_fraction=0.25)(7)
    which = (batch.x[:, 0, 0, 0] * 255).round().long()
    own = which < 100
    assert torch.equal(batch.row, torch.where(own, which, which - 100 + 40))
    assert torch.equal(batch.y, torch.where(own, which, which - 100) % 3)


def test_extra_images_take_their_share_of_each_batch_and_none_of_the_epochs_steps() -> None:
    feed = Feed(split(40), batch_size=8, seed=0, extra=split(50, 100), extra_fraction=0.75)
    assert feed.steps == Feed(split(40), batch_size=8, seed=0).steps == 5
    drawn = [shown(feed, step) for step in range(40)]
    assert all(sum(i >= 100 for i in batch) == 6 for batch in drawn)
    assert len({i for batch in drawn for i in batch if i >= 100}) > 40  # of 50, not the same few
    assert len({i for batch in drawn for i in batch if i < 100}) > 30  # an epoch leaves out other ones each time


def test_a_replayed_batch_comes_again_augmented_alike() -> None:
    feed = Feed(split(40), batch_size=8, seed=0, crop=2, flip=True, replays=2)
    x = [feed(step).x for step in range(12)]
    for a, b, same in ((0, 1, True), (2, 3, True), (1, 2, False), (4, 5, False), (5, 6, True)):
        assert torch.equal(x[a], x[b]) == same, (a, b)


def test_augmentation_can_be_switched_off() -> None:
    plain = Feed(split(40), batch_size=8, seed=0, augment=False, crop=2, flip=True)
    assert torch.equal(plain(0).x, Feed(split(40), batch_size=8, seed=0)(0).x)
