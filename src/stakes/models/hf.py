"""Networks from a local folder of the transformers library (the optional extra ``text``)."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image
from torch import Tensor, nn

from stakes.errors import InputError, first_line, some
from stakes.models.offline import check_names_no_hub, offline
from stakes.models.transforms import Transform, transform
from stakes.preprocessing import Size
from stakes.texts import read_text

PREPROCESSOR = "preprocessor_config.json"


def library() -> ModuleType:
    """The transformers library.

    Raises:
        InputError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            'hf: models need the transformers library; run: pip install "stakes[text]"'
        ) from error
    module: ModuleType = transformers
    return module


def make(folder: Path, num_classes: int | None) -> nn.Module:
    """The image classifier that a folder's ``config.json`` describes, with random weights.

    Raises:
        InputError: no such folder, no ``config.json``, or not an image classifier.
    """
    config_file = folder / "config.json"
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; hf: takes a local folder with a config.json")
    if not config_file.is_file():
        raise InputError(f"{folder} has no config.json; hf: takes a transformers folder")
    settings = read_json(config_file)
    check_names_no_hub(settings, str(config_file))
    if settings.get("problem_type") == "multi_label_classification":
        raise InputError(
            f"{config_file} says multi_label_classification; stakes handles classifiers that "
            "give each image one class: train one with single labels"
        )
    transformers = library()
    with offline():
        return _made(transformers, config_file, num_classes)


def _made(transformers: ModuleType, config_file: Path, num_classes: int | None) -> nn.Module:
    try:
        # trust_remote_code=False: code that lies in the folder is not run
        config = transformers.AutoConfig.from_pretrained(
            config_file.parent, local_files_only=True, trust_remote_code=False
        )
        if num_classes is not None and num_classes != config.num_labels:
            config.num_labels = num_classes
        network: nn.Module = transformers.AutoModelForImageClassification.from_config(
            config, trust_remote_code=False
        )
    except Exception as error:  # the library raises nearly anything
        raise InputError(
            f"{config_file} does not describe an image classifier that transformers "
            f"{transformers.__version__} can build ({first_line(error)}); give a folder that "
            "save_pretrained wrote of an image classifier"
        ) from error
    return network.float()


def weight_file(folder: Path) -> Path:
    """The file, or the index of several, in which a folder holds its weights.

    Raises:
        InputError: there is none.
    """
    names = ["model.safetensors", "pytorch_model.bin"]
    names += [f"{name}.index.json" for name in names]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"{folder} has no weights: it needs one of {', '.join(names)}; copy the whole folder, or "
        "name a file with --weights"
    )


def class_names(network: nn.Module) -> tuple[str, ...] | None:
    """The class names in a network's configuration, None where they are only numbered."""
    config: Any = network.config
    names = tuple(str(config.id2label[i]) for i in sorted(config.id2label))
    return None if all(name.startswith("LABEL_") for name in names) else names


def image_size(network: nn.Module) -> int | Size:
    """What the network's configuration says its images measure, 224 pixels where it does not."""
    config: Any = network.config
    config = getattr(config, "vision_config", config)  # of CLIP and SigLIP, which also read texts
    size = getattr(config, "image_size", None)
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    return int(size) if isinstance(size, int | float) else 224


def preprocessing(folder: Path, size: Size) -> Transform:
    """What the folder's image processor makes of a file, as the library's pipelines open it.

    Args:
        folder: holds ``preprocessor_config.json``.
        size: (height, width) where the processor leaves the image's own.

    Raises:
        InputError: the library cannot make the processor, or it is no such preprocessing.
    """
    file = folder / PREPROCESSOR
    settings = read_json(file)
    check_names_no_hub(settings, str(file))
    transformers = library()
    try:
        with _quiet(), offline():
            processor = transformers.AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the library raises nearly anything
        raise InputError(
            f"{file} does not describe an image processor that transformers "
            f"{transformers.__version__} can make: {first_line(error)}; "
            "copy it again, or remove it and choose with --resize"
        ) from error

    def code(image: Image.Image) -> Any:
        return processor(images=image, return_tensors="pt")["pixel_values"][0]

    name = f"transformers {type(processor).__name__}"
    read = transform(code, f"{name}{_stated(settings)}", {"processor": name}, "upright")
    return read if read.size is not None else read.at(size)


def _stated(settings: Mapping[str, Any]) -> str:
    """The steps of a processor's configuration that say what becomes of an image's size."""
    steps = [
        f"{word} {_sides(settings.get(key))}"
        for word, key, switch in (
            ("resize", "size", "do_resize"),
            ("crop", "crop_size", "do_center_crop"),
        )
        if settings.get(switch, key in settings) and settings.get(key) is not None
    ]
    return f": {', '.join(steps)}" if steps else ""


def _sides(size: Any) -> str:
    if not isinstance(size, dict):
        return str(size)
    if {"height", "width"} <= size.keys():
        return f"{size['height']} x {size['width']}"
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in size.items())


def load(network: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """The network with these weights, which have today's names or those of the model hub.

    Raises:
        InputError: the weights do not fit, with the keys.
    """
    own: Any = network
    with _quiet(), offline():
        try:
            loaded, info = type(own).from_pretrained(
                None,
                config=own.config,
                state_dict=dict(state),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # said below, in one line
            )
        except Exception as error:  # the library raises nearly anything
            raise InputError(
                f"{source} cannot be loaded: {first_line(error)}; copy the whole folder again"
            ) from error
    faults = [
        f"{len(info[kind])} keys {word} ({some(sorted(str(key) for key in info[kind]))})"
        for kind, word in (
            ("missing_keys", "missing"),
            ("unexpected_keys", "unexpected"),
            ("mismatched_keys", "of another shape"),
        )
        if info[kind]
    ]
    if faults:
        raise InputError(
            f"{source} does not fit {type(own).__name__}: {'; '.join(faults)}; give the "
            "weights of this network"
        )
    # Back into the network that was built: the loaded one remembers which names its file used,
    # and would be saved under others from another file.
    network.load_state_dict(loaded.state_dict())
    return network


def hub_names(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state under the names used in files, which differ from the modules' since version 5."""
    library()
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before version 5 they are the same
        return state
    own: Any = network
    return dict(revert_weight_conversion(own, dict(state)))


def files(
    network: nn.Module,
    names: tuple[str, ...],
    preprocessor: str | None,
    normalised: tuple[list[float], list[float]] | None,
) -> dict[str, str]:
    """The JSON files that make a folder with ``model.safetensors`` a transformers folder.

    ``preprocessor`` is the text of the folder's own; ``normalised`` are mean and std, of images in
    [0, 1], where they are not those of that text.
    """
    config: Any = network.config
    settings = json.loads(config.to_json_string())
    settings["architectures"] = [type(network).__name__]
    settings["id2label"] = {str(i): name for i, name in enumerate(names)}
    settings["label2id"] = {name: i for i, name in enumerate(names)}
    texts = {"config.json": json.dumps(settings, indent=2) + "\n"}
    if preprocessor is not None:
        processor = json.loads(preprocessor)
        if normalised is not None:
            mean, std = normalised
            processor |= {"do_rescale": True, "rescale_factor": 1 / 255, "rescale_offset": False}
            processor |= {"do_normalize": True, "image_mean": mean, "image_std": std}
        texts[PREPROCESSOR] = json.dumps(processor, indent=2) + "\n"
    return texts


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: the file cannot be read, is not JSON, or holds something else.
    """
    try:
        content = json.loads(read_text(path, "JSON").removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:  # the latter: nested without end
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read as JSON: {first_line(error)}; copy it again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a JSON {type(content).__name__}, not an object; copy it again"
        )
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bars and reports while loading."""
    logging = library().utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
