"""An entry for RobustBench's leaderboard: the fields of its `model_info/DATASET/THREAT/NAME.json` (Croce et al. 2021, arXiv 2010.09670).

What an evaluation does not know (paper, authors, venue, link, what the paper reports, whether other data were used) is left empty for the
person who submits the entry. ImageNet has none: its leaderboard is measured on a list of 5,000 images that is not part of the data set.
"""

import json
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path

from kdiga import __version__
from kdiga.attacks import AUTOATTACK
from kdiga.evaluate import Evaluation
from kdiga.folder import atomic_write
from kdiga.report.rows import Row
from kdiga.types import Threat

BOARDS = {("cifar10", inf): "8/255", ("cifar10", 2.0): "0.5", ("cifar100", inf): "8/255"}  # eps as the entries write it
IMAGES = 10_000  # all test images of CIFAR

Entry = dict[str, str | bool | int | None]


def missing(data: str, threat: Threat, found: Evaluation) -> str | None:
    """Why there is no entry: one line; "" for data and norms that have no leaderboard; None where there is one."""
    eps = BOARDS.get((data, threat.norm))
    if eps is None:
        return ""
    if threat.eps != Threat.parse("linf" if threat.norm == inf else "l2", eps).eps:
        return f"No RobustBench entry: its leaderboard is for eps {eps}."
    if "autoattack" not in found.robust:
        return "No RobustBench entry: AutoAttack was not among the attacks."
    if found.n < IMAGES:
        return f"No RobustBench entry: it takes all {IMAGES} test images, {found.n} were attacked (--n {IMAGES})."
    return None


def entry(row: Row, data: str, threat: Threat, found: Evaluation) -> Entry:
    """The fields, once `missing` is None. Accuracies are in per cent, as text; `unreliable` is there where a health check raised a flag."""
    others = [name for name in found.robust if name not in ("clean", "autoattack", *AUTOATTACK)]
    footnote = f"Evaluated with kdiga {__version__}, AutoAttack standard"
    if others:
        footnote += f"; a sample that {' or '.join(others)} breaks counts as broken, too"
    if row.flags:
        footnote += f"; flags raised: {', '.join(row.flags)}"
    return {
        "link": "",
        "name": "",
        "authors": "",
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": data,
        "venue": "",
        "architecture": row.spec or "",
        "eps": BOARDS[data, threat.norm],
        "clean_acc": f"{100 * row.clean:.2f}",
        "reported": "",
        "autoattack_acc": f"{100 * found.accuracy('autoattack'):.2f}",
        "footnote": f"{footnote}.",
        **({"unreliable": True} if row.flags else {}),
    }


def write(rows: Sequence[Row], data: str, threat: Threat, found: Mapping[str, Evaluation], out: Path) -> str | None:
    """Write `robustbench/NAME.json` for each row of evaluations that are alike; else what `missing` says."""
    for row in rows:
        if (reason := missing(data, threat, found[row.name])) is not None:
            return reason
        (out / "robustbench").mkdir(exist_ok=True)
        text = json.dumps(entry(row, data, threat, found[row.name]), indent=2, ensure_ascii=False)
        atomic_write(out / "robustbench" / f"{row.name}.json", f"{text}\n".encode())
    return None
