"""The options of a run: which network, what it is to forget, and how the result is scored."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from stakes.preprocessing import Interpolation
from stakes.runs.words import (
    EVIDENCE,
    MACHINE,
    NETWORK,
    READING,
    TO_FORGET,
    Number,
    Place,
    Switch,
    Text,
    Whole,
)

Triple = tuple[float, float, float]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class NetworkInputs:
    """A trained network, how it reads images, and a data set of its classes."""

    model: Annotated[str, NETWORK]
    """timm:NAME, torchvision:NAME, hf:FOLDER, stakes:NAME, path/to/file.py:factory, or a folder
    that stakes wrote"""
    weights: Annotated[Place | None, NETWORK] = None
    """the trained weights: .safetensors, or a .pt, .pth, .th state dict; or the word random, for
    an untrained network"""
    weights_key: Annotated[str | None, NETWORK] = None
    """which network in the file, if it holds several, such as state_dict_ema"""
    classes: Annotated[Place | None, NETWORK] = None
    """a text file with one class name per line, in the order of the network's outputs; by default
    the classes of the data; if their order is ambiguous (1, 10, 2), the word alphabetical or
    numerical"""
    mean: Annotated[Triple | None, READING] = None
    """mean of the input normalisation, for pixels in [0, 1]; by default the model's own"""
    std: Annotated[Triple | None, READING] = None
    """standard deviation of the normalisation; by default the model's own"""
    input_size: Annotated[Text | int | None, READING] = None
    """side of the network's input in pixels, or HEIGHTxWIDTH; by default the model's own"""
    transform: Annotated[Text | None, READING] = None
    """your service's own preprocessing, path/to/file.py:factory: a function that makes a transform,
    or a transform itself, from an opened PIL image to the network's input (3, h, w), normalised;
    the file is run"""
    resize: Annotated[Literal["crop", "squash", "pad", "square"] | None, READING] = None
    """how an image file becomes the network's input; by default as the model's library does it.
    crop: scale the short side, take the centre; squash: scale both sides; pad: scale the long side,
    fill the rest with black; square: scale the largest centred square down; the network itself
    enlarges smaller images"""
    crop_share: Annotated[Number | None, READING] = None
    """share of each side that the centre crop takes after scaling, such as 0.875; by default the
    model's own, or 1 if --resize names another rule"""
    interpolation: Annotated[Interpolation | None, READING] = None
    """filter of the scaling; by default the model's own, or bicubic"""
    data: Annotated[str | None, EVIDENCE] = None
    """a folder with train/CLASS and test/CLASS, or cifar10, cifar100, digits"""
    data_root: Annotated[Place | None, MACHINE] = None
    """where named data sets are kept; by default ~/.cache/stakes"""
    download: Annotated[Switch, MACHINE] = False
    """download a named data set that is missing"""
    device: Annotated[str, MACHINE] = "auto"
    """cpu, cuda, cuda:1, mps, xpu, or auto: cuda or xpu if available, else cpu"""
    seed: Annotated[Whole, MACHINE] = 0
    """seed of every random choice"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Inputs(NetworkInputs):
    """A network, the images to forget, and what there is to score on."""

    forget: Annotated[str, TO_FORGET]
    """the images to forget: a folder of class folders, a .csv with path,label, or a choice from
    the training data: random:K, classes:NAME,NAME (whole classes) or classes:10% (at random)"""
    data: Annotated[str | None, EVIDENCE] = None
    """a folder with train/CLASS and test/CLASS, or cifar10, cifar100, digits; used for
    scoring and by random:K and classes: to draw from; a method sees the rest only if it needs
    retained data"""
    anchors: Annotated[str | None, TO_FORGET] = None
    """digits, cifar10, cifar100, a file that `stakes anchors` wrote, a .npy, head (the rows of the
    last layer), prototypes (mean features of the forget images and mixtures of them), or
    random:SEED; by default the shipped set of these classes, else head"""
    max_memory: Annotated[Number | None, MACHINE] = None
    """memory limit in GiB for the forget set, and for decoding one of its images; by default half
    of the free memory"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ScoringInputs(Inputs):
    """The same where networks are only scored: anchors are taken, for earlier command lines."""

    anchors: Annotated[str | None, Parameter(show=False)] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a network is made to forget and scored, whatever the method."""

    surrogates: Annotated[Place | None, TO_FORGET] = None
    """unlabelled images to replace the absent training data: a folder (searched with its
    subfolders), or cifar10, cifar100, digits; any that you may lawfully use, the more similar the
    better; copies of forget images are left out, and the report counts those also scored"""
    sidecar: Annotated[Place | None, TO_FORGET] = None
    """a file that `stakes sidecar` wrote while the training data was available; it serves as
    surrogate data, alone or together with --surrogates"""
    force: Annotated[Switch, TO_FORGET] = False
    """run even if the network recognises less than half of the forget images"""
    reference: Annotated[Place | None, EVIDENCE] = None
    """a network to compare the result with, such as one trained without the images: a folder that
    stakes wrote, or its model.safetensors; only scored"""
    eval_samples: Annotated[Whole | None, EVIDENCE] = None
    """score at most this many test and as many retained images; by default all"""
    metric: Annotated[tuple[str, ...], EVIDENCE] = ()
    """a measure of your own, path/to/file.py:function; repeatable"""
    images: Annotated[bool, EVIDENCE] = True
    """show the forget images in the report, or leave them out"""
    micro_batch: Annotated[Whole | None, MACHINE] = None
    """images per pass through the network, to save memory; the computation is the same, but its
    rounding differs, and differences grow over the steps: weights can differ, while measures agree
    closely; a step takes about a third longer"""
    shard: Annotated[Switch, MACHINE] = False
    """with torchrun: divide weights, gradients and the optimiser's state among the processes, for a
    network whose training does not fit one device; structguard only"""
