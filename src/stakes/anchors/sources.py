"""From a word, a file or an object to the anchors of a classifier's classes."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from stakes.anchors.anchors import Anchors, new_card
from stakes.data.augment import mixed
from stakes.data.forget import ForgetSet
from stakes.errors import InputError, shortened
from stakes.files import tensor_digest
from stakes.models.classifier import Classifier

_RANDOM = "random:"
_MIXTURES = 512


def resolve_anchors(
    classifier: Classifier,
    anchors: Anchors | str | Path | None,
    forget: ForgetSet,
    seed: int = 0,
) -> Anchors:
    """The anchors that a word, a file or an object names, in the classifier's class order.

    ``None`` takes the shipped anchors whose classes are the classifier's, and where there are
    none, the rows of its own head. A text is ``head``, ``prototypes`` (see :func:`prototypes`;
    ``seed`` is for these), ``random:SEED`` (see :func:`random_anchors`), or what
    :meth:`stakes.anchors.anchors.Anchors.load` takes.

    Raises:
        InputError: anchors of other classes, no such anchors, or another type.
    """
    names = classifier.class_names
    if isinstance(anchors, Path):
        anchors = str(anchors)
    if anchors is None:
        anchors = Anchors.for_classes(names) or "head"
    if isinstance(anchors, Anchors):
        return anchors.select(names)
    if not isinstance(anchors, str):
        raise InputError(
            f"anchors are a {type(anchors).__name__}: give Anchors(vectors, class_names), a file, "
            "'head', 'prototypes' or 'random:SEED'"
        )
    if anchors == "head":
        return Anchors.from_head(classifier.head.weight, names)
    if anchors == "prototypes":
        return prototypes(classifier, forget, seed)
    if anchors.startswith(_RANDOM):
        return random_anchors(classifier, anchors.removeprefix(_RANDOM))
    return Anchors.load(anchors, names)


def made_from_network(anchors: str) -> bool:
    """Whether these anchors are made from the network, and so cannot tell the class names."""
    return anchors in ("head", "prototypes") or anchors.startswith(_RANDOM)


@torch.no_grad()
def prototypes(classifier: Classifier, forget: ForgetSet, seed: int = 0) -> Anchors:
    """Visual prototypes: the mean unit feature of each class, without any language.

    Row c is the mean of norm(g(x)) over the forget images of class c and over those of 512
    mixtures of forget images (see :func:`stakes.data.augment.mixed`) that the classifier takes for
    c. A class that none of them shows keeps its row of the head; the card names these classes under
    ``from_head``, and the number of images of the others under ``images``.

    Differences from the paper (Sec. 4.3, Table 4, "Ours-vis"): it averages the features of the
    retained images, which a method has not. PGD probes, which stand for them in its Sec. 3.2, give
    rows farther from those averages than mixtures do (mean cosine .80 against .88, centred,
    ResNet-20 on CIFAR-10 with 16 forget images).

    Args:
        classifier: the network before unlearning.
        forget: the images to forget; their order changes nothing.
        seed: of the mixtures.
    """
    forget = forget.in_one_order().to(classifier.device)
    network = classifier.copy().eval()
    mixtures = mixed(forget.images, _MIXTURES, torch.Generator().manual_seed(seed))
    parts = [network.both(batch) for batch in torch.cat([forget.images, mixtures]).split(256)]
    features, logits = (torch.cat(column) for column in zip(*parts, strict=True))
    labels = torch.cat([forget.labels, logits[len(forget) :].argmax(1)])
    vectors, counts = class_means(F.normalize(features), labels, classifier.num_classes)
    head = classifier.head.weight.detach()
    names = classifier.class_names
    of_classes = list(zip(names, counts.tolist(), strict=True))
    card = new_card(
        "prototypes",
        "none: mean features of the forget images and mixtures of them",
        classifier.digest(),
        seed=seed,
        images={name: count for name, count in of_classes if count},
        from_head=[name for name, count in of_classes if not count],
    )
    return Anchors(torch.where(counts[:, None] > 0, vectors, F.normalize(head)), names, card)


def class_means(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The mean of the features (n, d) of each class (c, d), zero where it has none, and n (c,).

    >>> means, counts = class_means(torch.tensor([[1.0], [3.0]]), torch.tensor([1, 1]), 2)
    >>> means.flatten().tolist(), counts.tolist()
    ([0.0, 2.0], [0, 2])
    """
    member = F.one_hot(labels, classes).to(features)
    counts = member.sum(0)
    return member.T @ features / counts.clamp_min(1)[:, None], counts.long()


def random_anchors(classifier: Classifier, seed: str) -> Anchors:
    """Unit vectors in random directions, as wide as the features: anchors that mean nothing.

    Raises:
        InputError: ``seed`` is not a whole number from 0.
    """
    if not seed.isdecimal() or len(seed) > 18:
        raise InputError(
            f"anchors {_RANDOM}{shortened(seed)}: give a whole number, such as {_RANDOM}0"
        )
    names = classifier.class_names
    generator = torch.Generator().manual_seed(int(seed))
    vectors = torch.randn(len(names), classifier.feature_width, generator=generator)
    card = new_card(_RANDOM + seed, "none: random directions", tensor_digest({"random": vectors}))
    return Anchors(vectors, names, card)
