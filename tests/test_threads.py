"""Threads on a processor: as many as the network's layers can use."""

import pytest
import torch

from stakes import Classifier
from stakes.runs import threads


@pytest.fixture
def chosen(monkeypatch):
    """The number of threads that was set."""
    numbers: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    monkeypatch.setattr(threads, "cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return numbers


@pytest.mark.parametrize(
    ("spec", "size", "number"), [("stakes:digits_cnn", 16, 1), ("stakes:cifar_resnet20", 32, 7)]
)
def test_a_small_network_gets_one_thread_and_a_larger_one_all_cores(chosen, spec, size, number):
    network = Classifier.load(spec, num_classes=10, input_size=size)
    threads.fit_threads(network)
    assert chosen == [number]


def test_a_number_in_the_environment_stays(chosen, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads.fit_threads(Classifier.load("stakes:digits_cnn", num_classes=10))
    assert chosen == []


def test_multiplications_are_those_of_convolutions_and_linear_layers():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1, stride=2)
            self.fc = torch.nn.Linear(4, 5)

        def forward(self, x):
            return self.fc(self.conv(x).mean((2, 3)))

    network = Classifier.wrap(Two(), class_names=tuple("abcde"), input_size=8)
    assert threads.multiplications(network) == (4 * 4 * 4) * (3 * 3 * 3) + 4 * 5


@pytest.mark.parametrize(
    ("quota", "number"), [("150000 100000", 2), ("max 100000", 6), ("10000 100000", 1)]
)
def test_a_container_has_the_cores_of_its_quota(monkeypatch, tmp_path, quota, number):
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert threads.cores() == number
