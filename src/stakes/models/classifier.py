"""The classifier: a network split into features and a linear head, with its preprocessing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stakes.errors import InputError, quoted
from stakes.files import tensor_digest
from stakes.models.cards import IN_MEMORY
from stakes.models.checks import check_size, fitting, names_of, per_channel, usable_device
from stakes.models.copying import copied
from stakes.models.heads import as_found, logits_of, replace, split
from stakes.models.loading import Wanted, load_network, parts_of
from stakes.models.lookup import Lookup
from stakes.models.saving import card, saved_state, write
from stakes.models.specs import RANDOM, Built
from stakes.preprocessing import Reader, Size, sides
from stakes.texts import expanded


class Classifier(nn.Module):
    """Images in [0, 1] -> features -> logits, for any network that ends in one linear layer.

    Resizing and normalisation happen inside, so a distance in pixels means the same everywhere.
    A network whose first layer takes one channel is fed the mean over the three. Networks with
    several convolutions are kept in the ``channels_last`` memory layout, on which their logits
    depend in the last bits: a copy loaded without stakes gives bit-equal logits after
    ``network.to(memory_format=torch.channels_last)``. A last layer that is a 1x1 convolution serves
    as a linear one here, and is a convolution again in :meth:`network` and in what is saved.

    Attributes:
        spec: what the network is, such as ``"timm:resnet18"``.
        weights: where its weights came from: a path, or ``"random (seed 0)"``; for a saved
            classifier, its file and the origin of the weights that it was made from.
        body: the whole network with ``nn.Identity`` in place of its head.
        head: the linear layer from features (n, d) to logits (n, c).
        head_name: the name of the head in the network.
        projector: applied to the body's features before the head, or None; it has an attribute
            ``width``, and keeps the width.
        lookup: applied to features and logits after the head, or None; see
            :mod:`stakes.models.lookup`.
        input_size: side of the images the network sees, or (height, width), pixels.
        preprocessing: the reader that makes these from an image file, as the network's service does
            (see :mod:`stakes.preprocessing`); None if the largest centred square is scaled.
        mean: per channel, of images in [0, 1]; a buffer (3, 1, 1), not saved as weights.
        std: the same of their standard deviation.
        class_names: one name per logit.

    >>> classifier = Classifier.load("stakes:digits_cnn", class_names=("cat", "dog"))
    >>> features, logits = classifier.both(torch.rand(4, 3, 8, 8))
    >>> features.shape, logits.shape, classifier.weights
    (torch.Size([4, 64]), torch.Size([4, 2]), 'random (seed 0)')
    """

    mean: Tensor
    std: Tensor
    projector: nn.Module | None
    lookup: Lookup | None
    #: Divides passes of images, or of indices of these, among processes (see
    #: :mod:`stakes.training.distributed`); None: each does all.
    across: ClassVar[Callable[[nn.Module, Callable[[Tensor], Tensor], Tensor], Tensor] | None] = (
        None
    )

    def __init__(
        self,
        built: Built,
        *,
        weights: str,
        class_names: Sequence[str] | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
    ) -> None:
        super().__init__()
        check_size(built.input_size)
        label = built.spec.removeprefix(IN_MEMORY)
        parts = split(built.network, input_size=built.input_size, name=label)
        self.spec, self.weights, self.recipe = built.spec, weights, built.recipe
        self.input_size, self.preprocessor = built.input_size, built.preprocessor
        self.preprocessing = fitting(built, parts.channels)
        self.stated = built.mean, built.std
        self.body, self.head, self.head_name = parts.body, parts.head, parts.head_name
        self._kernel = parts.kernel
        self._grey, self._channels_last = parts.channels == 1, parts.channels_last
        self.register_module("projector", None)
        self.register_module("lookup", None)
        self.class_names = names_of(built, class_names, self.num_classes)
        dtype, device = self.head.weight.dtype, self.device
        for key, value in (("mean", built.mean if mean is None else mean),
                           ("std", built.std if std is None else std)):  # fmt: skip
            numbers = per_channel(value, key).to(device=device, dtype=dtype)
            self.register_buffer(key, numbers, persistent=False)
        self.eval()

    @property
    def num_classes(self) -> int:
        """Number of classes c."""
        return self.head.out_features

    @property
    def feature_width(self) -> int:
        """Number of features d."""
        return self.head.in_features

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def features(self, images: Tensor) -> Tensor:
        """What the head reads: (n, d) for images (n, 3, h, w) in [0, 1] of any height and width.

        Images of another size are stretched to the network's (bilinear, antialiased).

        Raises:
            InputError: ``images`` has another shape.
        """
        if not isinstance(images, Tensor):
            raise InputError(f"images are {quoted(images)}; they must be a tensor (n, 3, h, w)")
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"images of shape {tuple(images.shape)}; they must be (n, 3, h, w)")
        across = type(self).across
        return self.passed(images) if across is None else across(self, self.passed, images)

    def passed(self, images: Tensor) -> Tensor:
        """The pass of :meth:`features`, of all images by this process at once."""
        size = sides(self.input_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        images = (images.to(self.mean.dtype) - self.mean) / self.std
        if self._grey:
            images = images.mean(dim=1, keepdim=True)
        layout = torch.channels_last if self._channels_last else torch.contiguous_format
        images = images.contiguous(memory_format=layout)
        features = logits_of(self.body(images))
        if self.projector is not None:
            features = self.projector(features)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, c) of images (n, 3, h, w) in [0, 1]."""
        return self.both(images)[1]

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, d) and logits (n, c) of images (n, 3, h, w) in one pass."""
        features = self.features(images)
        logits: Tensor = self.head(features)
        return features, logits if self.lookup is None else self.lookup(features, logits)

    def copy(self) -> Self:
        """A copy that shares nothing with this classifier."""
        return copied(self, self.spec)

    def network(self) -> nn.Module:
        """A copy of the plain network: its head in place, no projector and no lookup."""
        network = copied(self.body, self.spec)
        replace(network, self.head_name, as_found(copied(self.head, self.spec), self._kernel))
        return network

    def network_state(self) -> dict[str, Tensor]:
        """The state dict of :meth:`network`, its tensors shared with this classifier."""
        state = {name: tensor.detach() for name, tensor in self.body.state_dict().items()}
        for name, tensor in as_found(self.head, self._kernel).state_dict().items():
            state[f"{self.head_name}.{name}"] = tensor.detach()
        return state

    def digest(self) -> str:
        """SHA-256 over the weights as they are saved, what the plain network lacks among them."""
        return tensor_digest(saved_state(self))

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and its card ``model.json`` into ``folder``.

        The weights keep the network's own names, so timm, torchvision or transformers load them
        without stakes; the card says how. A transformers network also gets its configuration
        files. Each file is written beside its place and renamed, for its owner alone.
        """
        write(self, Path(folder))

    def card(self) -> dict[str, Any]:
        """What ``model.json`` says, but for the digest."""
        return card(self)

    @classmethod
    @torch.inference_mode(False)  # its tensors would have no gradients
    def load(
        cls,
        spec: str | Path,
        *,
        weights: str | Path | None = None,
        weights_key: str | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        input_size: int | Size | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        preprocessing: Reader | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> Self:
        """Load a network by its spec, or a classifier that was saved before.

        Args:
            spec: ``timm:NAME``, ``torchvision:NAME`` (with arguments: ``timm:NAME,in_chans=1``),
                ``hf:FOLDER``, ``stakes:NAME`` or
                ``path/to/file.py:factory`` (code in that file is run); or the folder, or the
                ``.safetensors`` file in it, that :meth:`save` wrote.
            weights: weight file, or the word "random"; without either, timm and torchvision
                networks are refused (a transformers folder has its own weights). Nothing is
                downloaded, and no code in the file is run. A network from your own code that
                :meth:`save` wrote loads only in this way, from ``file.py:factory`` (wherever
                that is now) and its ``model.safetensors``, and keeps its card.
            weights_key: which network in the file, if it holds several, such as
                ``state_dict_ema``.
            num_classes: default: what the weights say, else what the network has.
            class_names: default: those of the saved or transformers folder, else ``class 0``, ...
            input_size: side in pixels, or (height, width); default: what the network is made for.
            mean: per channel or one for all; default: what the network is made for.
            std: as ``mean``.
            preprocessing: what makes the network's input from an image file, such as a
                :class:`stakes.preprocessing.Preprocessing`, or the service's own code by
                :func:`stakes.models.transforms.transform`, which says size, mean and std as well;
                default: that of the saved classifier, or of the network's library, else None.
            device: where to put it.
            seed: for random weights.

        Raises:
            InputError: unknown model, unreadable or unfitting weights, no single linear head,
                an impossible number of classes or size; the message says which.
        """
        target = usable_device(device)
        untrained = str(weights) == RANDOM
        loaded = load_network(
            Wanted(
                spec,
                weights=None if weights is None or untrained else expanded(weights),
                untrained=untrained,
                weights_key=weights_key,
                num_classes=num_classes,
                class_names=class_names,
                input_size=input_size,
                mean=mean,
                std=std,
                preprocessing=preprocessing,
                seed=seed,
            )
        )
        classifier = cls(loaded.built, weights=loaded.weights, **loaded.settings)
        if num_classes not in (None, classifier.num_classes):
            raise InputError(
                f"{spec} has {classifier.num_classes} classes, not {num_classes}; "
                "its factory needs an argument num_classes to have others"
            )
        classifier.spec = loaded.spec
        for name, part in parts_of(loaded, classifier.feature_width).items():
            setattr(classifier, name, part.to(classifier.head.weight).eval())
        return classifier.to(target)

    @classmethod
    @torch.inference_mode(False)  # its tensors would have no gradients
    def wrap(
        cls,
        module: nn.Module,
        *,
        class_names: Sequence[str] | None = None,
        input_size: int | Size,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        preprocessing: Reader | None = None,
    ) -> Self:
        """A classifier from a copy of a network in memory.

        Args:
            module: the network, from normalised images (n, 3, h, w) to logits (n, c).
            class_names: one per logit; default ``class 0``, ``class 1``, ...
            input_size: side of its images in pixels, or (height, width).
            mean: subtracted from images in [0, 1], per channel or one for all; default 0.
            std: divides them after that; default 1.
            preprocessing: what makes the network's input from an image file.

        Raises:
            InputError: no network, one that does not end in one linear layer, or one that cannot
                take the size.
        """
        kind = type(module).__name__
        if not isinstance(module, nn.Module) or isinstance(module, Classifier):
            raise InputError(f"a {kind} cannot be wrapped: give a plain torch.nn.Module")
        built = Built(
            f"{IN_MEMORY}{kind}",
            copied(module, f"your {kind}"),
            f"your {kind}",
            input_size,
            preprocessing=preprocessing,
        )
        return cls(built, weights="in memory", class_names=class_names, mean=mean, std=std)

    @classmethod
    def require(cls, value: object, what: str = "the network") -> "Classifier":
        """The value, if it is a classifier.

        Raises:
            InputError: it is something else; the message says how to make one of it.
        """
        if isinstance(value, Classifier):
            return value
        kind = type(value).__name__
        if isinstance(value, nn.Module):
            how = "wrap it: Classifier.wrap(network, input_size=32, mean=..., std=...)"
        else:
            how = "load one: Classifier.load(SPEC, weights=FILE)"
        raise InputError(f"{what} is a {kind}, not a Classifier; {how}")
