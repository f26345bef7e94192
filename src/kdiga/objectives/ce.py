"""Cross-entropy on clean images, the objective of standard training.

    L = CE(f_s(x), y)

No teacher, no attack.
"""

from torch import nn

from kdiga.losses import cross_entropy
from kdiga.types import Batch, Terms


def ce(student: nn.Module, teacher: nn.Module | None, batch: Batch, progress: float) -> Terms:
    """Terms: `ce`, nats per sample. `teacher` and `progress` are not used."""
    return {"ce": cross_entropy(student(batch.x), batch.y)}
