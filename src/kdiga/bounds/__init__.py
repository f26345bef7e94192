"""Sound bounds of what a network can return for any image in a box, without a search.

`record` runs a network once and notes its steps; `intervals` sends a box through them (IBP: Gowal et al. 2018, arXiv 1810.12715);
`margins` bounds z_y - z_j from below by going back from there (CROWN: Zhang et al. 2018, arXiv 1811.00866). Everything is differentiable.

Known steps: Linear, Conv2d (zero padding, any stride, dilation, groups), BatchNorm, average pooling and means over the image, max pooling,
flattening, dropout in evaluation mode, sums of two branches, sums and products with constants and with parameters or buffers of the
network, and elementwise activations that rise, or fall and then rise: ReLU, ReLU6, LeakyReLU, ELU, hardswish, SiLU, GELU, mish, tanh,
sigmoid. Anything else is BadInput, which names it; so is an in-place step. Nothing is skipped silently.

Rounding is not accounted for: there is no directed rounding, so a bound holds up to the error of the floating point that it is computed in.
"""

from kdiga.bounds.propagate import Box, box, intervals, margins
from kdiga.bounds.record import Step, record

__all__ = ["Box", "Step", "box", "intervals", "margins", "record"]
