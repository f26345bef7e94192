"""Per-sample terms: tensors in, `[b]` out. No model, mode, device or reduction is known here."""

import torch
import torch.nn.functional as F

from kdiga.types import Images, Labels, Logits, PerSample


def cross_entropy(z: Logits, y: Labels) -> PerSample:
    """-log softmax(z)_y, in nats, computed in float32 or better."""
    return F.cross_entropy(_wide(z), y, reduction="none")


def kl(z: Logits, target: Logits, temperature: float = 1.0) -> PerSample:
    """T^2 KL(softmax(target / T) || softmax(z / T)): summed over classes, so its scale does not depend on their number
    (Hinton et al. 2015, arXiv 1503.02531). `target` is differentiated too unless the caller detaches it."""
    log_p, log_q = F.log_softmax(_wide(target) / temperature, 1), F.log_softmax(_wide(z) / temperature, 1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def margin(z: Logits, y: Labels) -> PerSample:
    """max_{j != y} z_j - z_y: below 0 where the label wins."""
    return _wide(z).scatter(1, y[:, None], -torch.inf).amax(1) - _wide(z).gather(1, y[:, None])[:, 0]


def log_odds(z: Logits, y: Labels) -> PerSample:
    """log sum exp of the wrong logits less the right one: log((1 - p) / p) for the probability p of the label. The cross-entropy is its
    softplus: the same direction, but this one does not saturate."""
    z = _wide(z)
    return z.scatter(1, y[:, None], -torch.inf).logsumexp(1) - z.gather(1, y[:, None])[:, 0]


def norm(v: Images, p: float) -> PerSample:
    """Each sample's l_p norm. Its gradient at v = 0 is 0, not NaN."""
    length: PerSample = torch.linalg.vector_norm(v.flatten(1), ord=p, dim=1)
    return length


def angle(a: Images, b: Images) -> PerSample:
    """1 - cos(a, b) for each sample; 0, with gradient 0, where a or b is shorter than 1e-8: rounding, not a direction."""
    lengths = norm(a, 2.0), norm(b, 2.0)
    short = torch.minimum(*lengths) < 1e-8
    cosine = (a * b).flatten(1).sum(1) / torch.where(short, 1.0, lengths[0] * lengths[1])
    return torch.where(short, 0.0, 1 - cosine)


def input_gradient(loss: PerSample, x: Images, *, create_graph: bool = False) -> Images:
    """Each sample's gradient of its own loss: the sum over samples is differentiated, so batch size does not enter."""
    return torch.autograd.grad(loss.sum(), x, create_graph=create_graph)[0]


def _wide(z: Logits) -> Logits:
    return z if z.dtype == torch.float64 else z.float()
