"""A vision transformer for small images (Dosovitskiy et al. 2021, arXiv 2010.11929), built from timm's parts."""

from torch import nn

from kdiga.errors import BadInput
from kdiga.models.activation import activation
from kdiga.models.info import sizes
from kdiga.models.second_order import allow_double_backward


def vit_tiny(
    shape: tuple[int, int, int],
    classes: int,
    *,
    act: str = "gelu",
    patch: int | None = None,
    dim: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
) -> nn.Module:
    """A small vision transformer: `dim` channels, `depth` blocks, `heads` attention heads, square patches of `patch` pixels.

    Defaults: below 16 pixels patch 2, dim 96, depth 6, heads 3 (0.7 million parameters); from 16 on dim 192, depth 12, heads 3 as
    in DeiT-Ti (Touvron et al. 2021, arXiv 2012.12877; 5.4 million), patch 4, or 16 above 64 pixels. Raises BadInput where the
    patches do not tile the image or the heads do not divide dim.
    """
    from timm.models.vision_transformer import VisionTransformer

    side = min(shape[1:])
    patch = patch or (2 if side < 16 else 4 if side <= 64 else 16)
    dim, depth, heads = dim or (96 if side < 16 else 192), depth or (6 if side < 16 else 12), heads or 3
    if shape[1] % patch or shape[2] % patch:
        raise BadInput(f"vit-tiny: patches of {patch} do not tile an image of {sizes(shape[1:])}: choose ?patch=")
    if dim % heads:
        raise BadInput(f"vit-tiny: {heads} heads do not divide dim {dim}")
    network: nn.Module = VisionTransformer(
        img_size=shape[1:],
        patch_size=patch,
        in_chans=shape[0],
        num_classes=classes,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        act_layer=type(activation(act)),
    )
    allow_double_backward(network)
    return network
