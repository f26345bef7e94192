"""The leaderboard's fields, and that its numbers are the table's."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdiga.evaluate import Evaluation
from kdiga.report.robustbench import entry, missing, write
from kdiga.report.rows import Row
from kdiga.types import Threat

# counted over the files in RobustBench's model_info/cifar10/Linf
FIELDS = {"link": str, "name": str, "authors": str, "additional_data": bool | None, "number_forward_passes": int, "dataset": str,
          "venue": str, "architecture": str, "eps": str, "clean_acc": str, "reported": str, "autoattack_acc": str,
          "footnote": str | None}  # fmt: skip
LINF, L2 = Threat.parse("linf", "8/255"), Threat.parse("l2", "0.5")


def found(threat: Threat = LINF, n: int = 10_000, attacks: tuple[str, ...] = ("autoattack",)) -> Evaluation:
    clean, robust = torch.arange(n) < 0.92445 * n, torch.arange(n) < 0.6031 * n
    return Evaluation(threat=threat, n=n, robust={"clean": clean} | dict.fromkeys(attacks, robust), seconds={})


def row(name: str, of: Evaluation) -> Row:
    robust = of.accuracy("autoattack") if "autoattack" in of.robust else None
    return Row(name=name, parameters=9, clean=of.accuracy("clean"), pgd20=None, autoattack=robust, low=None, high=None, n=of.n,
               seconds=None, spec="resnet-18")  # fmt: skip


@pytest.mark.parametrize(
    ("data", "threat", "eps"), [("cifar10", LINF, "8/255"), ("cifar10", L2, "0.5"), ("cifar100", LINF, "8/255")]
)
def test_an_entry_has_the_fields_of_the_leaderboard(data: str, threat: Threat, eps: str) -> None:
    known = found(threat)
    assert missing(data, threat, known) is None
    said = entry(row("m", known), data, threat, known)
    assert said.keys() == FIELDS.keys()
    assert all(isinstance(said[name], kind) for name, kind in FIELDS.items())
    assert (said["dataset"], said["eps"], said["architecture"], said["number_forward_passes"]) == (data, eps, "resnet-18", 1)
    assert (said["clean_acc"], said["autoattack_acc"]) == ("92.45", "60.31")


def test_what_an_evaluation_does_not_know_is_left_empty() -> None:
    said = entry(row("m", found()), "cifar10", LINF, found())
    assert {said[name] for name in ("link", "name", "authors", "venue", "reported")} == {""}
    assert said["additional_data"] is None


def test_the_footnote_names_other_attacks_and_flags() -> None:
    known = found(attacks=("fgsm", "apgd-ce", "pgd20", "autoattack"))
    assert "a sample that fgsm or pgd20 breaks counts as broken, too" in str(
        entry(row("m", known), "cifar10", LINF, known)["footnote"]
    )
    assert "breaks" not in str(entry(row("m", found()), "cifar10", LINF, found())["footnote"])
    flagged = entry(replace(row("m", known), flags=("zero gradient",)), "cifar10", LINF, known)
    assert flagged["unreliable"] is True
    assert "flags raised: zero gradient." in str(flagged["footnote"])
    assert "unreliable" not in entry(replace(row("m", known), flags=()), "cifar10", LINF, known)


@pytest.mark.parametrize(
    ("data", "known", "reason"),
    [
        ("cifar10", found(n=1000), r"^No RobustBench entry: it takes all 10000 test images, 1000 were attacked \(--n 10000\)\.$"),
        ("cifar10", found(Threat.parse("linf", "4/255")), r"^No RobustBench entry: its leaderboard is for eps 8/255\.$"),
        ("cifar10", found(attacks=("pgd20",)), r"^No RobustBench entry: AutoAttack was not among the attacks\.$"),
        ("cifar100", found(L2), "^$"),
        ("fashion-mnist", found(), "^$"),
    ],
)
def test_anything_less_leaves_no_entry_and_says_why(data: str, known: Evaluation, reason: str, tmp_path: Path) -> None:
    said = write([row("m", known)], data, known.threat, {"m": known}, tmp_path)
    assert said is not None
    assert re.search(reason, said)
    assert not (tmp_path / "robustbench").exists()


def test_one_file_for_each_model(tmp_path: Path) -> None:
    one, two = found(), replace(found(), robust={"clean": torch.ones(10_000) > 0, "autoattack": torch.arange(10_000) < 1})
    rows = [row("one", one), row("two", two)]
    assert write(rows, "cifar10", LINF, {"one": one, "two": two}, tmp_path) is None
    for r in rows:
        said = json.loads((tmp_path / "robustbench" / f"{r.name}.json").read_text())
        assert (float(said["clean_acc"]), float(said["autoattack_acc"])) == pytest.approx(
            (100 * r.clean, 100 * (r.autoattack or 0)), abs=0.005
        )
    assert said["clean_acc"] == "100.00"
