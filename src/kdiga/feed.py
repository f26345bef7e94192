"""Which images a training step sees: a function of the seed and the step, so that order and augmentation have no state to be resumed."""

import torch

from kdiga.data import Split, augment
from kdiga.types import Batch


class Feed:
    """Batches of one size, in a new order each epoch; an incomplete last batch waits for the next epoch's order.

    Of every batch, the share `extra_fraction` is drawn at random from `extra` instead (generated images, say); their `row` goes on after
    the training set's. An epoch has as many steps as it would have without them: runs with and without cost the same, and the images
    that an epoch leaves out are other ones each time. With `replays` above 1, a batch is shown that many times in a row, augmented alike.
    """

    def __init__(
        self,
        data: Split,
        *,
        batch_size: int,
        seed: int,
        augment: bool = True,
        crop: int = 0,
        flip: bool = False,
        extra: Split | None = None,
        extra_fraction: float = 0.0,
        replays: int = 1,
    ) -> None:
        self.data, self.extra, self.seed, self.replays = data, extra, seed, replays
        self.size = min(batch_size, len(data))
        self.steps = len(data) // self.size  # in an epoch
        self.drawn = round(extra_fraction * self.size) if extra is not None else 0
        self.crop, self.flip = (crop, flip) if augment else (0, False)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __call__(self, step: int) -> Batch:
        epoch, place = divmod(step, self.steps)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, torch.randperm(len(self.data), generator=_generator(self.seed, epoch))
        place //= self.replays
        shown = epoch * self.steps + place * self.replays  # the step at which this batch came first
        own = self.size - self.drawn
        row = self._order[place * own : (place + 1) * own]
        x, y = self.data.images(row), self.data.y[row.to(self.data.y.device)]
        if self.drawn and self.extra is not None:
            more = torch.randint(len(self.extra), (self.drawn,), generator=_generator(self.seed + 2, shown))
            x = torch.cat([x, self.extra.images(more)])
            y = torch.cat([y, self.extra.y[more.to(y.device)]])
            row = torch.cat([row, len(self.data) + more])
        if self.crop or self.flip:
            x = augment(x, crop=self.crop, flip=self.flip, generator=_generator(self.seed + 1, shown))
        return Batch(x, y, row.to(y.device))


def _generator(seed: int, place: int) -> torch.Generator:
    """One for each (run, place)."""
    return torch.Generator().manual_seed((seed * 1_000_003 + place * 7_919 + 17) % 2**63)
