import pytest
import torch
from torch.nn import functional as F

from golden.slow import PlainSGD, assert_same, index_batches
from stakes.methods import AMUN
from stakes.methods.amun import nearest_adversarial


def attack(network, image, label):
    eps, moved, done = 0.04, image[None].double(), 0
    while True:
        x = moved.clone().requires_grad_()
        logits = network(x)
        answer = int(logits.argmax(1))
        if answer != int(label):
            return moved[0].detach(), answer
        if done == 50:
            eps, done = 2 * eps, 0
        (g,) = torch.autograd.grad(F.cross_entropy(logits, label[None]), x)
        offset = moved + eps / 10 * g / (g**2).sum().sqrt() - image
        offset *= min(1.0, eps / float((offset**2).sum().sqrt()))
        moved, done = (image + offset).clamp(0, 1), done + 1


@pytest.fixture(scope="module")
def attacked(trained, forget):
    """The nearest adversarial examples and their classes, found one by one."""
    network, data = trained.copy().double().eval(), forget.in_one_order()
    found = [attack(network, x, y) for x, y in zip(data.images, data.labels, strict=True)]
    return torch.stack([x for x, _ in found]), torch.tensor([y for _, y in found])


@pytest.mark.parametrize("batch", [128, 4])
def test_five_steps_of_amun(attacked, network, forget, batch):
    assert AMUN().forget_batch == 128
    result = AMUN(forget_batch=batch, max_steps=5)(network, forget, seed=3)
    (images, targets), slow = attacked, network.copy().train()
    optimizer = PlainSGD(slow.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    batches = index_batches(6, batch, torch.Generator().manual_seed(3))
    steps = int(result.history[-1]["step"])  # it ends where all is forgotten
    assert steps >= 3
    for step in range(steps):
        chosen = next(batches)
        optimizer.lr = 0.01 * 0.1 ** (step // (1 if batch == 128 else 2))
        optimizer.step(F.cross_entropy(slow(images[chosen]), targets[chosen]))
    assert_same(network, result.classifier, slow)


def test_it_takes_ten_passes(network, forget):
    history = AMUN(lr=1e-9, forget_batch=4)(network, forget, seed=3).history
    assert history[-1]["step"] == 20


def dark_below(level):
    """A network that gives class 1 or 2 to images darker than ``level``, and otherwise class 0.

    Class 1 comes second where an image is light, and class 2 where it is dark.
    """

    def network(images):
        mean = images.mean((1, 2, 3))
        first = torch.where(mean < level, -1.0, 1.0 + mean)
        return torch.stack([first, mean - 0.5, 0 * mean + 0.2], dim=1)

    return network


def test_a_class_at_the_far_end_of_all_images_is_found():
    white = torch.ones(1, 3, 8, 8)
    found, answers = nearest_adversarial(dark_below(0.1), white, torch.tensor([0]), 0.04, 50)
    assert found.mean() < 0.1
    assert answers.tolist() == [2]


def test_an_image_whose_class_changes_nowhere_stays_and_goes_to_its_own_second_choice():
    white = torch.ones(1, 3, 8, 8)
    found, answers = nearest_adversarial(dark_below(-1.0), white, torch.tensor([0]), 0.04, 50)
    assert torch.equal(found, white)
    assert answers.tolist() == [1]
