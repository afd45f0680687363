"""``stakes sidecar``: what may be kept of training data once the data is gone."""

from typing import Literal

from stakes.errors import InputError
from stakes.progress import Terminal
from stakes.runs.inputs import Inputs, Triple, load
from stakes.runs.words import Place, Text, Whole
from stakes.sidecar import make, membership


def sidecar(
    *,
    model: str,
    data: str,
    out: Place,
    weights: Place | None = None,
    weights_key: str | None = None,
    data_root: Place | None = None,
    classes: Place | None = None,
    mean: Triple | None = None,
    std: Triple | None = None,
    input_size: Text | int | None = None,
    transform: Text | None = None,
    resize: Literal["crop", "squash", "pad", "square"] | None = None,
    device: str = "auto",
    images: Whole | None = None,
    steps: Whole = 100,
    seed: Whole = 0,
) -> None:
    """Make a sidecar: statistics of training data and synthetic images, to keep when it is gone.

    Run it while the training data is still there. `stakes unlearn --sidecar OUT` then holds the
    synthetic images in place of the data. OUT holds no training image; how well it tells training
    images from test images is measured and written into it.

    Args:
        model: as in `stakes unlearn`
        data: a folder with train/CLASS and test/CLASS, or cifar10, cifar100, digits
        out: .safetensors file to write
        weights: the trained weights
        weights_key: which network of the file, where it holds several
        data_root: where named data sets are kept; by default ~/.cache/stakes
        classes: a text file with one class name a line, in the order of the network's outputs
        mean: mean of the input normalisation, for pixels in [0, 1]; by default the model's own
        std: standard deviation of the normalisation; by default the model's own
        input_size: side of the network's input in pixels, or HEIGHTxWIDTH
        transform: your service's own preprocessing, path/to/file.py:factory; the file is run
        resize: how an image file becomes the network's input
        device: cpu, cuda, cuda:1, or auto
        images: synthetic ones; by default 256, or as many as fit into 4 MiB, at the least 32
        steps: of fitting them
        seed: of every random choice
    """
    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: give a name that ends in .safetensors")
    inputs = Inputs(
        model=model, data=data, forget="random:1", weights=weights, weights_key=weights_key,
        data_root=data_root, classes=classes, mean=mean, std=std, input_size=input_size,
        transform=transform, resize=resize, device=device, seed=seed,
    )  # fmt: skip
    loaded = load(inputs)
    assert loaded.splits is not None
    train, test = loaded.splits.train, loaded.splits.test
    with Terminal() as progress:
        made = make(
            loaded.classifier, train, count=images, steps=steps, seed=seed, progress=progress
        )
    told = "membership not measured: --data has no test images"
    if test is not None:
        found = membership(made, loaded.classifier, train, test, seed=seed)
        made.card["membership"] = found
        told = (
            f"training against test images by the nearest synthetic one, AUC: features "
            f"{found['features']:.3f}, pixels {found['pixels']:.3f}; by the nearest class mean "
            f"{found['means']:.3f} (0.5 is chance, {found['n']:.0f} of each)"
        )
    size = made.save(out)
    print(f"{len(made.images)} synthetic images, {size / 2**20:.1f} MiB: {out}\n{told}")
