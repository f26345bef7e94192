"""A network with its normalisation inside: images in [0, 1] go in, logits come out."""

import torch
from torch import Tensor, nn

from kdiga.errors import BadInput
from kdiga.models.info import ModelInfo
from kdiga.types import Images, Logits


class Classifier(nn.Module):
    """body((x - mean) / std). `mean` and `std` are buffers of shape [c, 1, 1], saved with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, info: ModelInfo, body: nn.Module) -> None:
        super().__init__()
        self.info = info
        self.body = body
        self.register_buffer("mean", torch.tensor(info.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(info.std)[:, None, None])

    def forward(self, x: Images) -> Logits:
        if x.shape[1] != self.info.shape[0]:  # one channel would be broadcast to three without a word
            raise BadInput(f"images with {x.shape[1]} channels were given to {self.info.spec}, which takes {self.info.shape[0]}")
        logits: Tensor = self.body((x - self.mean) / self.std)
        return logits


def parameter_count(model: nn.Module) -> int:
    """The number of trainable numbers: weights and biases, not running statistics."""
    return sum(p.numel() for p in model.parameters())
