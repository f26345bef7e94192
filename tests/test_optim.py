"""Schedules and averages against their definitions."""

import pytest
import torch
from torch import nn

from kdiga.optim import averaged, learning_rate, sgd


def test_multistep_divides_by_ten_at_each_milestone() -> None:
    trace = [learning_rate("multistep", 0.1, epoch / 200, (0.5, 0.75), 0.2) for epoch in range(200)]
    assert trace == pytest.approx([0.1] * 100 + [0.01] * 50 + [0.001] * 50)


def test_onecycle_rises_to_the_peak_and_falls_to_zero() -> None:
    trace = [learning_rate("onecycle", 0.2, i / 1000, (), 0.25) for i in range(1000)]
    assert trace[0] == pytest.approx(0.008)
    assert trace[250] == pytest.approx(0.2)
    assert trace[625] == pytest.approx(0.1)
    assert trace[-1] < 1e-5
    assert trace.index(max(trace)) == 250


def test_decay_spares_biases_and_norms() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(1.0)
    optimizer = sgd(net, lr=0.1, momentum=0.9, weight_decay=0.5)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = [name for name, p in net.named_parameters() if (p != 1).any()]
    assert moved == ["0.weight"]


def test_average_is_the_mean_at_first_and_exponential_later() -> None:
    net = nn.Linear(1, 1, bias=False)
    average = averaged(net, 0.9)
    expected = 0.0
    for t in range(200):
        with torch.no_grad():
            net.weight.fill_(float(t))
        average.update_parameters(net)
        decay = 0.0 if t == 0 else min(0.9, t / (t + 10))
        expected = decay * expected + (1 - decay) * t
    kept = average.module
    assert isinstance(kept, nn.Linear)
    assert kept.weight.item() == pytest.approx(expected, rel=1e-5)
