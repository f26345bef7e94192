"""The sentence must follow from the numbers, whatever they are."""

import pytest

from kdiga.report.rows import Row
from kdiga.report.sentence import verdict


def row(name: str, autoattack: float | None, *, role: str = "student", half: float | None = 0.02, threat: str = "") -> Row:
    known = autoattack is not None and half is not None
    return Row(
        name=name,
        parameters=1,
        clean=0.9,
        pgd20=None,
        autoattack=autoattack,
        low=max(autoattack - half, 0.0) if known and autoattack is not None and half is not None else None,
        high=min(autoattack + half, 1.0) if known and autoattack is not None and half is not None else None,
        n=1000,
        seconds=1.0,
        role=role,
        threat=threat,
    )


TEACHER = row("T", 0.6, role="teacher")


def test_kdiga_better() -> None:
    assert verdict([TEACHER, row("KD", 0.006), row("KDIGA", 0.2)]) == (
        "KD keeps 1 % of the teacher's robust accuracy under AutoAttack, KDIGA 33 %; "
        "KDIGA is ahead of KD and their 95 % intervals do not overlap."
    )


def test_kdiga_worse() -> None:
    assert "; KD is ahead of KDIGA and their 95 % intervals do not overlap." in verdict(
        [TEACHER, row("KD", 0.3), row("KDIGA", 0.2)]
    )


def test_intervals_overlap() -> None:
    assert verdict([TEACHER, row("KD", 0.19), row("KDIGA", 0.2)]).endswith(
        "; KDIGA is ahead of KD, but their 95 % intervals overlap."
    )


def test_intervals_that_touch_overlap() -> None:
    assert verdict([TEACHER, row("KD", 0.25, half=0.125), row("KDIGA", 0.5, half=0.125)]).endswith("intervals overlap.")


def test_a_tie() -> None:
    assert verdict([TEACHER, row("KD", 0.2), row("KDIGA", 0.2)]).endswith("; KDIGA and KD are equal.")


def test_kd_at_zero_keeps_nothing() -> None:
    assert verdict([TEACHER, row("KD", 0.0), row("KDIGA", 0.3)]).startswith("KD keeps 0 % of the teacher's")


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [(0.6, "100 %"), (0.66, "110 %"), (0.5985, "99.8 %"), (0.0015, "0.2 %"), (0.0001, "less than 0.1 %"), (0.0, "0 %")],
)
def test_shares_are_not_rounded_to_all_or_nothing(accuracy: float, said: str) -> None:
    assert verdict([TEACHER, row("S", accuracy)]) == f"S keeps {said} of the teacher's robust accuracy under AutoAttack."


def test_a_teacher_without_robustness() -> None:
    assert verdict([row("T", 0.0, role="teacher"), row("KD", 0.0), row("KDIGA", 0.3)]) == (
        "The teacher has no robust accuracy under AutoAttack to hand on: KD reaches 0.0 % (0.0 to 2.0 %), KDIGA 30.0 % (28.0 to 32.0 %); "
        "KDIGA is ahead of KD and their 95 % intervals do not overlap."
    )


def test_no_teacher() -> None:
    assert verdict([row("KD", 0.01), row("KDIGA", 0.3)]).startswith(
        "KD reaches 1.0 % (0.0 to 3.0 %) robust accuracy under AutoAttack, KDIGA 30.0 % (28.0 to 32.0 %); KDIGA is ahead of KD"
    )


def test_a_teacher_that_was_not_attacked_is_no_yardstick() -> None:
    said = verdict([row("T", None, role="teacher"), row("KD", 0.01), row("KDIGA", 0.3)])
    assert said.startswith("KD reaches 1.0 % (0.0 to 3.0 %) robust accuracy under AutoAttack, KDIGA 30.0 % (28.0 to 32.0 %); ")
    assert said.endswith("; T was not attacked with AutoAttack.")


def test_a_student_that_was_not_attacked_is_named() -> None:
    said = verdict([TEACHER, row("KD", None), row("KDIGA", 0.3)])
    assert said == "KDIGA keeps 50 % of the teacher's robust accuracy under AutoAttack; KD was not attacked with AutoAttack."


def test_nothing_attacked() -> None:
    assert "No model was attacked with AutoAttack" in verdict([row("KD", None), row("T", None, role="teacher")])


def test_one_model() -> None:
    assert verdict([row("M", 0.4, role="model")]) == (
        "M classifies 90.0 % of the 1000 images correctly, and 40.0 % under AutoAttack (95 % interval 38.0 to 42.0 %)."
    )


def test_no_rows() -> None:
    assert verdict([]) == "There is no result to report."


def test_different_threats_are_not_compared() -> None:
    said = verdict([row("KD", 0.1, threat="linf eps 8/255"), row("KDIGA", 0.5, threat="linf eps 4/255")])
    assert "cannot be compared" in said
    assert "ahead" not in said


def test_without_intervals_none_is_claimed() -> None:
    said = verdict([row("KD", 0.1, half=None), row("KDIGA", 0.5, half=None)])
    assert said.startswith(
        "KD reaches 10.0 % robust accuracy under AutoAttack, KDIGA 50.0 %; KDIGA is ahead of KD, without intervals"
    )
    assert "overlap" not in said


def test_kd_and_kdiga_are_the_pair_among_others() -> None:
    said = verdict([TEACHER, row("trades", 0.5), row("KD", 0.1), row("KDIGA", 0.3)])
    assert said.endswith("; KDIGA is ahead of KD and their 95 % intervals do not overlap.")


def test_without_that_pair_the_best_two_are_compared() -> None:
    assert "; c is ahead of a, but" in verdict([TEACHER, row("a", 0.3), row("b", 0.1), row("c", 0.31)])


def test_two_teachers_are_models_like_others() -> None:
    said = verdict([row("T", 0.6, role="teacher"), row("U", 0.5, role="teacher"), row("S", 0.3)])
    assert said == (
        "T reaches 60.0 % (58.0 to 62.0 %) robust accuracy under AutoAttack, U 50.0 % (48.0 to 52.0 %), S 30.0 % (28.0 to 32.0 %)."
    )


def test_many_models_are_told_as_a_range() -> None:
    said = verdict([TEACHER, *(row(f"m{i}", 0.06 * i) for i in range(1, 8))])
    assert said.startswith(
        "7 models keep between 10 % (m1) and 70 % (m7) of the teacher's robust accuracy under AutoAttack; m7 is ahead of m6"
    )


def test_the_best_of_the_kdiga_family_is_set_against_kd() -> None:
    rows = [
        TEACHER,
        *(row(name, share) for name, share in (("kd", 0.1), ("kdiga", 0.3), ("kdiga_j", 0.5), ("ard", 0.55))),
    ]
    assert "kdiga_j is ahead of kd" in verdict(rows)
