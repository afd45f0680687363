"""What a step waits for on an accelerator, on one that is made up: shapes, and no numbers."""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

from conftest import CLASSES, Tiny
from stakes import Classifier, ForgetSet
from stakes.anchors.anchors import Anchors
from stakes.data.images import ImageArray, batches
from stakes.data.surrogates import Surrogates
from stakes.methods import StructGuard
from stakes.methods.structguard.objective import Objective
from stakes.methods.task import Task


class Accelerator(FakeTensorMode):
    """Tensors on "cuda" have a shape only, and are read as ones; those on the CPU are real.

    Attributes:
        waits: the lines of stakes at which the processor would wait for the device, counted.
        order: the names of all operations there, and the waits among them.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.waits: Counter[str] = Counter()
        self.order: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there, name = kwargs.get("device"), func.overloadpacket.__name__
        if name == "is_pinned":
            return False
        if name == "_pin_memory":
            return args[0].clone()
        inside = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if not inside and (there is None or torch.device(there).type == "cpu"):
            return func(*args, **kwargs)
        self.order.append(name)
        if name == "_local_scalar_dense":
            self.wait()
            return 0.5
        if name == "equal":
            self.wait()
            return True
        if name == "_to_copy" and there is not None:
            if not kwargs.get("non_blocking"):
                self.wait()
            if torch.device(there).type == "cpu":
                return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if name == "index" and any(not isinstance(tensor, FakeTensor) for tensor in tensors):
            self.wait()  # PyTorch moves such indices, and waits
        return super().__torch_dispatch__(func, types, args, kwargs)

    def wait(self) -> None:
        """Count a wait at the line of stakes that asks for it."""
        frames = [f for f in traceback.extract_stack() if "/stakes/" in f.filename]
        line = f"{frames[-1].filename.rpartition('/')[2]}: {frames[-1].line}" if frames else ""
        self.waits[line] += 1
        self.order.append("wait")

    def event(self, device: torch.device) -> SimpleNamespace:
        """In place of torch.Event: recorded on the stream of its device, and awaited."""

        def record(stream: torch.device) -> None:
            assert stream == device
            self.order.append("event")

        return SimpleNamespace(record=record, synchronize=self.wait)


def put(network: nn.Module) -> None:
    """Move a network to the accelerator."""
    for part in network.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                moved = nn.Parameter(weight.detach().to("cuda"), weight.requires_grad)
                part._parameters[name] = moved
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to("cuda")


@contextmanager
def on_the_accelerator(settings: StructGuard, surrogates: bool) -> Iterator[Any]:
    """The objective of a run there, and the accelerator."""
    network = Classifier.wrap(Tiny(), class_names=CLASSES, input_size=8)
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    forget = ForgetSet.from_images(images, torch.arange(6) % len(CLASSES))
    with Accelerator() as accelerator:
        task = Task(network, forget, Anchors.from_head(network.head.weight, CLASSES))
        put(task.original), put(task.live)
        for name in ("images", "labels"):  # a set made of them would look at their values
            object.__setattr__(task.forget, name, getattr(task.forget, name).to("cuda"))
        task.stakes, task._monitor_probes = task.stakes.to("cuda"), task._monitor_probes.to("cuda")
        if surrogates:
            pixels = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8)
            task.surrogates = Surrogates(pixels, "noise", 20)
        task.live.body.conv1.requires_grad_(False)
        task.live.body.bn1.requires_grad_(False)
        with pytest.MonkeyPatch.context() as patched:  # it asks for the real device, too
            patched.setattr(
                torch.autograd, "grad", lambda total, leaves, **more: (None, *leaves[1:])
            )
            objective = Objective(settings, task)
        assert objective.probes.outputs(task.forget.images)
        yield task, objective, accelerator


def waits_of_terms(settings: StructGuard, surrogates: bool = False) -> Counter[str]:
    """What the second step waits for until its losses are queued."""
    with on_the_accelerator(settings, surrogates) as (_, objective, accelerator):
        objective.terms(1)
        accelerator.waits.clear()
        terms = objective.terms(2)
        assert all(term.device.type == "cuda" for term in terms.values())
    return accelerator.waits


SHORT = StructGuard(probe_batch=16, precision="float32", probes="mixed")
CODEC = "views.py: shown = made[places].cpu()  # all at once: the codec is on the CPU"


@pytest.mark.parametrize("criterion", ["exact", "deep"])
@pytest.mark.parametrize("cohorts", [1, 3])
@pytest.mark.parametrize("surrogates", [False, True])
def test_the_forward_passes_of_a_step_wait_for_nothing(criterion, cohorts, surrogates):
    settings = replace(SHORT, criterion=criterion, cohorts=cohorts, max_steps=12)
    assert waits_of_terms(settings, surrogates) == {}


def test_altered_copies_are_compressed_in_one_transfer_a_batch():
    found = waits_of_terms(replace(SHORT, criterion="views"))
    assert set(found) == {CODEC}
    assert 1 <= found[CODEC] <= 5  # three copies, probes, and copies that are held


def test_a_step_waits_once_after_its_backward_pass_is_queued(monkeypatch):
    steps: list[list[str]] = []

    def progress(phase: str, done: int, total: int, note: str = "") -> None:
        steps.append(accelerator.order[:])
        accelerator.order.clear()

    settings = replace(SHORT, max_steps=4)
    with on_the_accelerator(settings, False) as (task, objective, accelerator):

        def backward(loss: Tensor) -> None:  # PyTorch's own asks for the real device
            accelerator.order.append("backward")
            for weight in task.trainable().values():
                weight.grad = torch.ones_like(weight)

        monkeypatch.setattr(torch, "Event", accelerator.event)
        monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: device)
        monkeypatch.setattr(Tensor, "backward", backward)
        task.progress = progress
        settings._descend(task, objective)
    assert len(steps) == 5
    for order in steps[2:4]:  # 1 makes the optimiser's state, 4 is checked
        kinds = [name for name in order if name in ("convolution", "event", "backward", "wait")]
        assert kinds[-4:] == ["convolution", "event", "backward", "wait"]
        assert kinds.count("wait") == 1
        assert order[-1] != "wait"  # the optimiser's work comes after it


def test_the_next_images_are_decoded_while_the_first_are_used():
    class Slow(ImageArray):
        begun = Event()

        def load(self, indices: Any) -> Tensor:
            if 2 in list(indices):
                self.begun.set()
            assert not torch.is_grad_enabled()
            return super().load(indices)

    images = Slow(torch.zeros(5, 3, 2, 2, dtype=torch.uint8), [0, 1, 2, 3, 4])
    stream = batches(images, batch_size=2)
    first = next(stream)
    assert images.begun.wait(10)
    assert [first[1].tolist(), *(labels.tolist() for _, labels in stream)] == [[0, 1], [2, 3], [4]]
