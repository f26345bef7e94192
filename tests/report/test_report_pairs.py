"""Who is told apart from whom: p-values by hand, and sentences that follow from them."""

from dataclasses import replace
from math import comb

import pytest
import torch

from kdiga.report.pairs import Pair, lines, pairs
from kdiga.report.rows import Row
from kdiga.report.table import markdown
from kdiga.stats import images_to_separate
from kdiga.types import Outcomes


def row(name: str, outcomes: Outcomes) -> Row:
    robust = outcomes.float().mean().item()
    return Row(
        name=name, parameters=1, clean=1.0, pgd20=None, autoattack=robust, low=None, high=None, n=len(outcomes), seconds=None
    )


def right(*rows: range) -> Outcomes:
    found = torch.zeros(200, dtype=torch.bool)
    for r in rows:
        found[list(r)] = True
    return found


GOOD, CLOSE, POOR = right(range(100)), right(range(90), range(100, 106)), right(range(20))
OUTCOMES = {"poor": POOR, "good": GOOD, "close": CLOSE}


def test_neighbours_in_the_order_of_robust_accuracy() -> None:
    first, second = pairs([row(name, o) for name, o in OUTCOMES.items()], OUTCOMES)
    assert (first.first, first.second, first.only_first, first.only_second, first.n) == ("good", "close", 10, 6, 200)
    assert first.p == pytest.approx(2 * sum(comb(16, i) for i in range(7)) / 2**16)
    assert first.images == images_to_separate(0.5, 0.48, discordant=0.08)
    assert (second.first, second.second, second.only_first, second.only_second) == ("close", "poor", 76, 0)
    assert second.p == pytest.approx(2 * 0.5**76)
    assert second.images is None


def test_what_is_said_of_them() -> None:
    close, clear = lines(pairs([row(name, o) for name, o in OUTCOMES.items()], OUTCOMES))
    assert clear == "close is 38.0 points above poor under AutoAttack, on the same 200 images: p < 0.001."
    # p = 0.4545; Connor: ((1.96 sqrt(0.08) + 0.842 sqrt(0.0796)) / 0.02)^2 = 1567, corrected 1667
    assert close == (
        "good is 2.0 points above close under AutoAttack, on the same 200 images: p = 0.45, not told apart; "
        "a difference like this takes about 1700 images to show (power 0.8)."
    )


def test_as_many_images_is_no_difference() -> None:
    same = {"a": right(range(10)), "b": right(range(5, 15))}
    (pair,) = pairs([row(name, o) for name, o in same.items()], same)
    assert (pair.p, pair.images) == (1.0, None)
    assert lines([pair]) == ["a and b withstand AutoAttack on equally many of the same 200 images."]


def test_one_model_and_models_that_were_not_attacked_have_no_neighbours() -> None:
    assert pairs([row("good", GOOD)], {"good": GOOD}) == []
    assert pairs([replace(row(n, o), autoattack=None) for n, o in OUTCOMES.items()], {}) == []


def test_just_below_the_level_is_told_apart_and_just_above_it_is_not() -> None:
    for p, said in ((0.0499, "p = 0.050."), (0.05, "p = 0.050, not told apart.")):
        assert lines([Pair(first="a", second="b", n=100, only_first=9, only_second=2, p=p, images=None)])[0].endswith(said)


def test_remarks_stand_under_the_markdown_table() -> None:
    assert markdown([row("good", GOOD)], ["one.", "two."]).endswith("\n200 images\n\none.\n\ntwo.\n")
