"""The 8x8 digits that ship with scikit-learn (Alpaydin and Kaynak 1998): small enough for a demonstration, present everywhere."""

from pathlib import Path

import torch

from kdiga.data.splits import Dataset, Split, carve


def digits(root: Path | None = None) -> Dataset:
    """1437 training and 360 test images of 1x8x8; `root` is not used. Not augmented by default.

    The values 0 .. 16 become round(255 v / 16). The test images are drawn once for all: stratified, from a fixed seed.
    """
    from sklearn.datasets import load_digits

    published = load_digits()
    x = torch.from_numpy((published.images * (255 / 16)).round().astype("uint8"))[:, None]
    train, test = carve(Split(x, torch.from_numpy(published.target).long()), 360, seed=0)
    return Dataset("digits", train, test, tuple("0123456789"), crop=0, flip=False)
