"""``stakes describe`` and ``stakes anchors``: from class names to semantic anchors."""

from stakes.anchors.descriptions import read_classes
from stakes.anchors.language_model import PromptKind
from stakes.anchors.language_model import describe as describe_classes
from stakes.anchors.making import build
from stakes.progress import Terminal
from stakes.runs.words import Place, Switch, Whole


def describe(
    *,
    classes: Place,
    model: str,
    out: Place,
    prompt: PromptKind = "objects",
    attributes: Whole = 7,
    base_url: str | None = None,
    overwrite: Switch = False,
) -> None:
    """Have a language model describe your classes by visual attributes, for making anchors.

    The names of the classes are sent to the model. OUT is written after every class: run the same
    command again to resume. Needs pip install "stakes[llm]".

    Args:
        classes: a text file with one class name per line
        model: openai:NAME, anthropic:NAME or ollama:NAME; the key is read from OPENAI_API_KEY or
            ANTHROPIC_API_KEY
        out: JSON file to write, for `stakes anchors --descriptions`
        prompt: objects, or faces for famous people
        attributes: number of attributes per class
        base_url: address of another server with the provider's API; the key, if one is set, is
            sent to it
        overwrite: start over and replace OUT
    """
    names = read_classes(classes)
    with Terminal() as progress:
        found = describe_classes(
            names,
            model,
            out,
            prompt=prompt,
            count=attributes,
            base_url=base_url,
            overwrite=overwrite,
            progress=progress,
        )
    print(f"{len(found)} classes described: {out}")


def anchors(
    *,
    descriptions: Place,
    encoder: str,
    encoder_path: str,
    out: Place,
    per_class: Whole = 1,
    download: Switch = False,
    overwrite: Switch = False,
) -> None:
    """Make semantic anchors from class descriptions with a text encoder.

    Args:
        descriptions: JSON file: class name to a list of visual attributes
        encoder: clip, siglip or sbert
        encoder_path: a local transformers folder, or a hub name with --download
        out: .safetensors file to write
        per_class: anchors per class; its attributes are distributed among them
        download: download the encoder if it is missing
        overwrite: replace OUT
    """
    made = build(
        descriptions,
        encoder,
        encoder_path,
        out,
        per_class=per_class,
        download=download,
        overwrite=overwrite,
    )
    count, width = made.vectors.shape
    print(f"{count} anchors, {width} wide, digest {made.digest()[:12]}: {out}")
