"""What a training step costs: how often each network is run forwards and backwards, and floating point operations."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from kdiga import optim
from kdiga.data import Dataset, sample
from kdiga.distill import load_model, load_teachers
from kdiga.recipe import Recipe
from kdiga.train import State, update
from kdiga.types import Batch

FEW, POINTS = 2, 8  # images of the steps that are counted, and how many of these, spread over training


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one step, for each image of its batch. `flops` are those of convolutions and matrix products, of all networks together."""

    student_forwards: float
    student_backwards: float
    teacher_forwards: float
    teacher_backwards: float
    flops: float


def step_cost(recipe: Recipe, dataset: Dataset, device: torch.device) -> tuple[Cost, float]:
    """What a step of the training loop costs, and the flops of one forward of the student, for an image.

    It is the mean over points spread over training, as some methods have phases; the weights do not move. A step before them is
    not counted: the first finds nothing that is remembered from step to step.
    """
    few = sample(dataset.train, FEW).to(device)
    batch = Batch(few.images(), few.y, torch.arange(len(few), device=device))
    teacher, standard = (t if t is None else t.to(device) for t in load_teachers(recipe, dataset))
    memory: dict[str, Tensor] = {}
    objective = recipe.bound(standard_teacher=standard, memory=memory)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        student = load_model(recipe.model, dataset).to(device).train()
        optimizer = optim.sgd(student, lr=1.0, momentum=0.0, weight_decay=0.0)

        def step(share: float) -> None:
            update(student, teacher, objective, batch, share, optimizer, 0.0, recipe.train, State(), memory)

        def steps() -> None:
            for i in range(POINTS):
                step((i + 0.5) / POINTS)

        step(0.0)
        cost = count(steps, student, [t for t in (teacher, standard) if t is not None], POINTS * len(few))
        with torch.no_grad():
            forward = count(lambda: student(batch.x), student, (), len(few))
    return cost, forward.flops


def count(step: Callable[[], object], student: nn.Module, teachers: Sequence[nn.Module], images: int) -> Cost:
    """What `step` does with a batch of `images`.

    Images are counted, not calls: a forward of two batches at once is two. A backward is a gradient that arrives at an output of the
    network: the one that the loop's backward sends counts, each of an inner maximisation does, and so does the one by which an input
    gradient is differentiated again. Teachers are counted together. A part of a network that is called past its front door is not seen.
    """
    names = ("student_forwards", "student_backwards", "teacher_forwards", "teacher_backwards")
    seen = dict.fromkeys(names, 0)

    def backward(who: str, gradient: Tensor) -> None:
        seen[f"{who}_backwards"] += len(gradient)

    def forward(who: str, module: nn.Module, given: object, output: Tensor) -> None:
        seen[f"{who}_forwards"] += len(output)
        if output.requires_grad:
            output.register_hook(partial(backward, who))

    with ExitStack() as hooks, Flops() as flops:
        for who, network in (("student", student), *(("teacher", t) for t in teachers)):
            hooks.enter_context(network.register_forward_hook(partial(forward, who)))
        step()
    return Cost(**{name: seen[name] / images for name in names}, flops=flops.total / images)


class Flops(TorchDispatchMode):
    """Inside, `total` grows by the floating point operations of every convolution and matrix product, forwards and backwards, by
    PyTorch's own formulas. (Its FlopCounterMode also tracks modules, for which `torch.autograd.grad` is an error.)"""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        found = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=found)
        return found
