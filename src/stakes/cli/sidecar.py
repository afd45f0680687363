"""``stakes sidecar``: what may be kept of training data once the data is gone."""

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Annotated

from cyclopts import Parameter

from stakes.errors import InputError, quoted
from stakes.files import check_file
from stakes.progress import Terminal
from stakes.runs.inputs import NetworkInputs
from stakes.runs.load import load_network
from stakes.runs.words import OUTPUT, TRAINING, Place, Switch, Whole
from stakes.sidecar import Sidecar, make, membership
from stakes.sidecar.contents import is_sidecar

MOST = 100_000  # images, and steps: beyond these a slip is likelier


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SidecarInputs(NetworkInputs):
    """A network and the data that it was trained on."""

    data: Annotated[str, TRAINING] = field()  # required here: the base class has a default
    """the training data to summarise: a folder with train/CLASS and test/CLASS, or cifar10,
    cifar100, digits; the test images only serve to measure how well OUT tells training images
    from them"""


def sidecar(
    *,
    inputs: SidecarInputs,
    out: Annotated[Place, OUTPUT],
    images: Annotated[Whole | None, OUTPUT] = None,
    steps: Annotated[Whole, OUTPUT] = 100,
    overwrite: Annotated[Switch, OUTPUT] = False,
) -> None:
    """Make a sidecar of training data: statistics and synthetic images, to use once it is gone.

    Run it while you still have the training data. `stakes unlearn --sidecar OUT` then uses it in
    place of the data. OUT holds no training image. How well it tells training images from test
    images is measured and recorded in it.

    Args:
        inputs: the network and its training data.
        out: .safetensors file to write
        images: synthetic images; by default 256, or as many as fit into 4 MiB, but at least 32
        steps: optimisation steps that fit the synthetic images to the statistics
        overwrite: replace that file
    """
    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: give a name that ends in .safetensors")
    check_file(out, overwrite, is_sidecar)
    for name, number in (("images", images), ("steps", steps)):
        if number is not None and not 1 <= number <= MOST:
            raise InputError(f"--{name} {quoted(number)}: give a whole number from 1 to {MOST}")
    with redirect_stdout(sys.stderr):  # what code of the user's own prints
        made, measured = _made(inputs, images, steps)
    size = made.save(out)
    print(f"{len(made.images)} synthetic images, {size / 2**20:.1f} MiB: {out}")
    if made.activations is None:
        print(
            "no activations stored: this needs classes of at least 256 images, and layers "
            "that unlearning does not change and whose output is small"
        )
    print(measured)


def _made(inputs: SidecarInputs, images: int | None, steps: int) -> tuple[Sidecar, str]:
    """The sidecar, and what was measured of it in words."""
    network = load_network(inputs)
    assert network.splits is not None  # --data is required
    classifier, seed = network.classifier, inputs.seed
    train, test = network.splits.train, network.splits.test
    with Terminal() as progress:
        made = make(classifier, train, count=images, steps=steps, seed=seed, progress=progress)
    measured = "membership not measured: --data has no test images"
    if test is not None:
        found = membership(made, classifier, train, test, seed=seed)
        made.card["membership"] = found
        measured = (
            f"AUC of training against test images (0.5 is chance, {found['n']:.0f} of each): "
            f"nearest synthetic image by features {found['features']:.3f}, by pixels "
            f"{found['pixels']:.3f}; nearest class mean {found['means']:.3f}{_activations(found)}"
        )
    return made, measured


def _activations(found: dict[str, float]) -> str:
    """The area under the curve by activations, where there are any."""
    return f"; activations {found['activations']:.3f}" if "activations" in found else ""
