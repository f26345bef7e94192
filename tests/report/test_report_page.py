"""The page: complete, well-formed, harmless, and right in its geometry."""

import base64
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from io import BytesIO
from math import inf, nan
from typing import Any

import pytest
import torch
from PIL import Image

from kdiga.report.charts import robustness, trade_off
from kdiga.report.gallery import HIGH, LOW, MIDDLE, data_uri, diverging, natural
from kdiga.report.page import page
from kdiga.report.pictures import Pictures
from kdiga.report.plot import Mark, label, styles, ticks
from kdiga.report.rows import Row
from kdiga.report.training import MOST, panels
from kdiga.types import Threat

THREAT = Threat(norm=inf, eps=8 / 255)
VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = "<script>alert(1)</script>\" onload='x' {{ 7*7 }}"


def row(name: str, accuracy: float | None = 0.4, role: str = "student") -> Row:
    low, high = (None, None) if accuracy is None else (accuracy - 0.03, accuracy + 0.03)
    given: dict[str, Any] = {
        "name": name,
        "parameters": 123_456,
        "clean": 0.9,
        "pgd20": 0.45,
        "autoattack": accuracy,
        "low": low,
        "high": high,
    }
    return Row(**given, n=1000, seconds=77.0, role=role, threat=str(THREAT))


def some_pictures(names: Sequence[str], channels: int = 1, side: int = 8) -> Pictures:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, channels, side, side, generator=g)
    y = torch.tensor([0, 1, 2])
    return Pictures(
        x=x,
        y=y,
        names=tuple(names),
        adversarial={n: (x + THREAT.eps * torch.randn(x.shape, generator=g).sign()).clamp(0, 1) for n in names},
        gradients={n: torch.randn(x.shape, generator=g) for n in names},
        clean_prediction=dict.fromkeys(names, y),
        adversarial_prediction={n: torch.tensor([0, 2, 9]) for n in names},
    )


def a_log() -> list[dict[str, Any]]:
    steps = [{"step": i, "loss": 2.0 / i, "terms": {"ce": 1.0 / i, "iga": 1.0 / i}} for i in range(1, 1001)]
    return [*steps, {"step": 1000, "validation": {"clean": 0.9, "pgd20": 0.5}}]


def a_page(rows: Sequence[Row], **change: Any) -> str:
    names = [r.name for r in rows]
    given: dict[str, Any] = {
        "title": "A title",
        "rows": rows,
        "threat": THREAT,
        "classes": ("cat", "dog", "frog"),
        "sweeps": {n: [(0.0, 0.9), (THREAT.eps, 0.45), (0.1, 0.0)] for n in names},
        "logs": {n: a_log() for n in names},
        "pictures": some_pictures(names) if names else None,
        "provenance": {"command": "kdiga demo", "git revision": "abc123"},
        "verdict": "KD keeps 1 % of it.",
    }
    return page(**given | change)


class Checker(HTMLParser):
    """Every element closed in order; collects elements and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"repeated attribute in {tag}: {attrs}"
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of order"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_what_was_measured() -> None:
    rows = [row("teacher net", 0.5, role="teacher"), row("KD", 0.101), row("KDIGA", 0.302)]
    found = Checker(a_page(rows))
    for words in ("teacher net", "KD", "KDIGA", "50.0 %", "10.1 %", "30.2 %", "27.2 to 33.2 %", "123 k", "1 min 17 s", "A title"):
        assert words in found.text
    for words in (
        "KD keeps 1\u00a0% of it.",
        "linf eps 8/255",
        "1000 images",
        "kdiga demo",
        "abc123",
        "AutoAttack standard",
        "Wilson",
    ):
        assert words in found.text
    for words in (
        "How far each model holds",
        "What robustness costs",
        "Input gradient",
        "Training",
        "term iga",
        "validation accuracy",
    ):
        assert words in found.text


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pictures_and_predictions(channels: int) -> None:
    rows = [row("T", 0.5, role="teacher"), row("KD"), row("KDIGA")]
    found = Checker(a_page(rows, pictures=some_pictures(["KD", "T", "KDIGA"], channels)))
    images = [a for tag, a in found.seen if tag == "img"]
    assert len(images) == 3 + 3 * 3 * 3
    assert all(a["alt"] and str(a["src"]).startswith("data:image/png;base64,") for a in images)
    alts = [str(a["alt"]) for a in images]
    assert "PGD-20 image against KD, class dog, predicted dog before the attack and frog after it" in alts
    assert "predicted frog before the attack and 9 after it" in alts[-1]  # a class without a name
    assert found.text.index("input gradient") < found.text.index("mean cosine")
    gradients = [a for a in alts if a.startswith("input gradient of")]
    assert gradients[0].startswith("input gradient of T ")
    assert found.text.count("mean cosine") == 2  # each student with the teacher


def test_identical_gradients_have_cosine_one_and_none_without_a_teacher() -> None:
    p = some_pictures(["T", "S"])
    p.gradients["S"].copy_(3 * p.gradients["T"])
    assert "mean cosine 1.00" in a_page([row("T", role="teacher"), row("S")], pictures=p)
    assert "mean cosine" not in a_page([row("T"), row("S")], pictures=p)
    p.gradients["S"].zero_()
    assert "no cosine: a gradient is zero" in a_page([row("T", role="teacher"), row("S")], pictures=p)


def test_the_page_asks_nobody_for_anything() -> None:
    html = a_page([row("T", role="teacher"), row("S")])
    found = Checker(html)
    assert "script" not in {tag for tag, _ in found.seen}
    links = [a[k] for _, a in found.seen for k in ("src", "href", "srcset", "action", "data", "poster") if k in a]
    assert links
    assert all(str(link).startswith("data:") for link in links)
    assert not re.search(r"https?://|url\(|@import", html)


def test_a_hostile_name_is_only_text() -> None:
    rows = [row(HOSTILE, role="teacher"), row("S")]
    harmful = {HOSTILE: HOSTILE}
    html = a_page(rows, title=HOSTILE, verdict=HOSTILE, provenance=harmful, classes=(HOSTILE,) * 3)
    found = Checker(html)
    assert "script" not in {tag for tag, _ in found.seen}
    assert not any(name.startswith("on") for _, attributes in found.seen for name in attributes)
    assert HOSTILE in found.text
    assert "<script" not in html


@pytest.mark.parametrize(
    "change",
    [
        {"sweeps": {}, "logs": {}, "pictures": None},
        {"logs": {"only a log": [{"step": 1, "loss": nan, "terms": {"ce": nan}}]}},
        {"threat": Threat(norm=2.0, eps=0.5)},
        {"threat": Threat(norm=inf, eps=0.0)},
        {"classes": ()},
        {"provenance": {}},
    ],
)
def test_what_is_missing_is_left_out(change: dict[str, Any]) -> None:
    for rows in ([], [row("one", role="model")], [row("one", None)], [row("T", 0.0303, role="teacher"), row("S", 0.5)]):
        found = Checker(a_page(rows, **change))
        assert "How this was measured" in found.text
        assert ("What robustness costs" in found.text) == any(r.autoattack is not None for r in rows)
        assert "nan" not in found.text


def test_thirty_models_differ_in_look() -> None:
    rows = [row("T", 0.5, role="teacher"), *(row(f"model {i}", 0.1 + i / 100) for i in range(29))]
    assert len(set(styles([r.name for r in rows], ["T"]).values())) == 30
    found = Checker(a_page(rows))
    assert all(r.name in found.text for r in rows)


def test_size() -> None:
    names = [f"m{i}" for i in range(5)]
    x = torch.rand(12, 3, 32, 32)
    y = torch.zeros(12, dtype=torch.int64)
    worst = Pictures(  # noise does not compress
        x=x,
        y=y,
        names=tuple(names),
        adversarial={n: torch.rand_like(x) for n in names},
        gradients={n: torch.randn_like(x) for n in names},
        clean_prediction=dict.fromkeys(names, y),
        adversarial_prediction=dict.fromkeys(names, y),
    )
    assert len(a_page([row(n) for n in names], pictures=worst)) < 1_500_000


def test_diverging_colours() -> None:
    v = torch.tensor([[[0.0, 8 / 255, -8 / 255, 1.0, -1.0, 4 / 255]]])
    half = tuple(round((m + h) / 2) for m, h in zip(MIDDLE, HIGH, strict=True))
    assert [tuple(p) for p in diverging(v, 8 / 255)[0].tolist()] == [MIDDLE, HIGH, LOW, HIGH, LOW, half]
    assert [tuple(p) for p in diverging(v.expand(3, -1, -1), 8 / 255)[0].tolist()] == [
        (128, 128, 128),
        (255, 255, 255),
        (0, 0, 0),
        (255, 255, 255),
        (0, 0, 0),
        (191, 191, 191),
    ]
    assert diverging(torch.zeros(1, 2, 2), 0.0).flatten(0, 1).tolist() == [list(MIDDLE)] * 4


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_keep_their_pixels(channels: int) -> None:
    levels = torch.randint(0, 256, (channels, 5, 7), generator=torch.Generator().manual_seed(0))
    uri = data_uri(natural(levels / 255))
    with Image.open(BytesIO(base64.b64decode(uri.split(",")[1]))) as png:
        pixels = torch.tensor(list(png.convert("RGB").tobytes())).reshape(5, 7, 3)
    assert torch.equal(pixels, levels.expand(3, -1, -1).permute(1, 2, 0))


def test_large_pictures_are_drawn_smaller() -> None:
    def widths(html: str) -> set[int]:
        return {Image.open(BytesIO(base64.b64decode(uri))).width for uri in re.findall(r"base64,([^\"]+)", html)}

    assert widths(a_page([row("S")], pictures=some_pictures(["S"], 3, side=224))) <= set(range(50, 65))
    assert widths(a_page([row("S")], pictures=some_pictures(["S"], 3, side=32))) == {32}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (95.2, 98.4, [95, 96, 97, 98, 99]),
        (0.0, 0.45, [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (-3.0, 3.0, [-4, -2, 0, 2, 4]),
        (0.0, 0.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_ticks_are_round_and_cover_the_data(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_curves_are_drawn_where_the_numbers_are() -> None:
    chart = robustness({"a": [(0.0, 1.0), (8 / 255, 0.5), (16 / 255, 0.0)]}, THREAT, styles(["a"], []))
    left, top, right, bottom = chart.box
    positions = {text: x for x, text in chart.x_ticks}
    first, middle, last = (m.at for m in chart.marks)
    assert first == pytest.approx((left, top))
    assert middle == pytest.approx((left + 8 / 10 * (positions["10"] - left), (top + bottom) / 2))
    assert last[1] == pytest.approx(bottom)
    assert chart.rule is not None
    assert chart.rule[0] == pytest.approx(middle[0])
    assert positions["20"] == pytest.approx(right)
    assert chart.lines[0][1].split()[0] == f"{left:.1f},{top:.1f}"


def test_the_trade_off_has_area_by_parameters_and_bars_by_interval() -> None:
    rows = [row("big", 0.5), row("unknown", None), Row(**{**vars(row("small", 0.2)), "parameters": 123_456 // 4, "low": None})]
    chart = trade_off(rows, styles([r.name for r in rows], []))
    assert chart is not None
    big, small = chart.marks
    assert (big.r / small.r) ** 2 == pytest.approx(4, rel=1e-3)
    assert big.bar is not None
    assert (big.bar[0] + big.bar[1]) / 2 == pytest.approx(big.at[1])
    assert big.bar[0] < big.at[1] < small.at[1]
    assert small.bar is None


def test_labels_touch_nothing() -> None:
    look = styles(["a"], [])["a"]
    marks = [Mark(at=(60.0 + 9 * i, 100.0 + 5 * (i % 3)), style=look, r=5.0, title="", words=("a label", "x")) for i in range(20)]
    placed = label(marks, (0.0, 0.0, 520.0, 300.0))
    shown = [m.label for m in placed if m.label]
    assert 0 < len(shown) < 20
    alone = label(marks[:1], (0.0, 0.0, 520.0, 300.0))[0]
    assert alone.label == (70.0, 85.0, "start")
    assert label([Mark(at=(500.0, 100.0), style=look, r=5.0, title="", words=("a label",))], (0.0, 0.0, 520.0, 300.0))[0].label == (
        490.0,
        92.5,
        "end",
    )


def test_panels_hold_each_term_and_the_validation_accuracies() -> None:
    found = panels(a_log())
    assert [p.name for p in found] == ["loss", "term ce", "term iga", "validation accuracy"]
    assert [key for key, _ in found[-1].lines] == ["clean", "PGD-20"]
    assert found[-1].last == "clean 90.0 %, PGD-20 50.0 %"
    assert all(len(points.split()) <= MOST for p in found for _, points in p.lines)
    assert found[0].x_ticks[-1][1] == "1000"


def test_one_term_is_the_loss_and_broken_values_are_left_out() -> None:
    log = [{"step": i, "loss": v, "terms": {"ce": v}} for i, v in enumerate([2.0, inf, nan, None, 1.0], 1)]
    (found,) = panels(log)
    assert found.name == "term ce"
    assert len(found.lines[0][1].split()) == 2
    assert panels([]) == []
