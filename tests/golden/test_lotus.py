"""LoTUS against a loop written from its authors' code (cspartalis/LoTUS)."""

import math

import pytest
import torch

from golden.slow import assert_same, flipped_and_cropped, one_pass
from stakes import METHODS, ForgetSet


def known(network, images, labels):
    """Accuracy in eval mode, rounded to a hundredth."""
    network.eval()
    hits = (network(images).argmax(1) == labels).float().mean()
    network.train()
    return round(float(hits), 2)


@pytest.mark.parametrize(
    ("unseen", "epochs", "done", "mistaken"), [(0.0, 1, 1, 0), (50.0, 3, 3, 1), (100.0, 9, 1, 0)]
)
def test_epochs_until_it_is_as_unseen_data(
    unseen, epochs, done, mistaken, network, forget, train_images, retained
):
    labels = forget.labels.clone()
    labels[:mistaken] = 3  # five of six are recognised: .83
    forget = ForgetSet(forget.images, labels, forget.names)
    settings = {"retain_batch": 16, "unseen_accuracy": unseen, "epochs": epochs}
    lr = {0.0: 1e-4, 50.0: 0.1, 100.0: 1.0}[unseen]  # large ones change what is recognised
    found = METHODS["lotus"](lr=lr, **settings)(network, forget, retain=train_images, seed=3)

    slow, generator = network.copy().train(), torch.Generator().manual_seed(3)
    images, labels = retained(generator)
    ordered, teacher = forget.in_one_order(), network.copy().eval()
    cut = int(0.3 * 154)
    target = unseen / 100 or known(slow, images[cut:], labels[cut:])
    pixels = torch.cat([ordered.images, images[:cut]])
    optimizer = torch.optim.AdamW(slow.parameters(), lr=lr, weight_decay=5e-4)
    steps = 0
    for _ in range(epochs):
        excess = known(slow, ordered.images, ordered.labels) - target
        if excess <= -0.01:
            break
        for places in one_pass(len(pixels), 16, generator):
            order = torch.cat([places[places < 6], places[places >= 6]])  # of the random numbers
            batch = flipped_and_cropped(pixels[order], generator, flip=False)
            with torch.no_grad():
                logits = teacher(batch)
            soft, hard = (
                logits - torch.log(-torch.log(torch.rand(logits.shape, generator=generator)))
                for _ in range(2)
            )
            soft = (soft / math.exp(2.0 * excess)).softmax(1)
            answers, loss = slow(batch).log_softmax(1), 0.0
            for row, place in enumerate(order.tolist()):
                teach = soft[row] if place < 6 else torch.eye(4)[hard[row].argmax()]
                loss = loss - (teach * answers[row]).sum() / len(order)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1

    assert steps == done * 4  # 6 + 46 images, by 16
    assert len(found.history) == 1 + steps
    assert_same(network, found.classifier, slow)


@pytest.mark.parametrize(("unseen", "steps"), [(83.0, 1), (84.0, 0)])
def test_an_epoch_begins_unless_a_rounded_hundredth_is_missing(
    unseen, steps, network, forget, train_images
):
    labels = forget.labels.clone()
    labels[0] = (labels[0] + 1) % 4  # five of six are recognised: 0.83, when rounded
    other = ForgetSet(forget.images, labels, forget.names)
    method = METHODS["lotus"](retain_batch=16, max_steps=1, unseen_accuracy=unseen)
    assert len(method(network, other, retain=train_images).history) == 1 + steps


@pytest.mark.parametrize(("measured", "steps"), [(0.8349, 1), (0.8351, 0)])
def test_what_was_measured_on_unseen_data_is_rounded_too(
    measured, steps, network, forget, train_images, monkeypatch
):
    labels = forget.labels.clone()
    labels[0] = (labels[0] + 1) % 4  # five of six are recognised: 0.83, when rounded
    other = ForgetSet(forget.images, labels, forget.names)
    monkeypatch.setattr("stakes.methods.lotus.accuracy", lambda *_: measured)
    method = METHODS["lotus"](retain_batch=16, max_steps=1)
    assert len(method(network, other, retain=train_images).history) == 1 + steps
