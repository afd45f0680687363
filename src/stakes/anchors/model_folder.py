"""The folder of a transformers model: found, fetched if that is allowed, and read.

All of it needs the optional ``transformers`` package (``pip install "stakes[text]"``), which is
imported only when an encoder is loaded.
"""

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

from stakes.errors import InputError, first_line
from stakes.files import file_digest
from stakes.models.offline import check_names_no_hub
from stakes.texts import expanded, read_text

_CONFIGURATION = ("*.json", "*.txt", "*.model")
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def transformers_package() -> Any:
    """The transformers package; InputError where it is missing."""
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise InputError(
            'text encoders need the transformers package: pip install "stakes[text]"'
        ) from None


def model_folder(source: str | Path, download: bool) -> Path:
    """Find the model's folder: a local path, else the hub's cache, else, if allowed, the hub."""
    transformers_package()
    folder = expanded(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{source} has no config.json: give a transformers model's folder")
        return folder
    text = str(source)
    if isinstance(source, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise InputError(f"there is no folder {source}: check the encoder's path")
    hub = importlib.import_module("huggingface_hub")

    def snapshot(*patterns: str) -> Path:
        found = hub.snapshot_download(
            text, local_files_only=not download, allow_patterns=list(patterns)
        )
        return Path(found)

    try:
        folder = snapshot(*_CONFIGURATION, _WEIGHTS[0])
        if not list(folder.glob(_WEIGHTS[0])):  # older models on the hub have no safetensors
            folder = snapshot(*_CONFIGURATION, _WEIGHTS[1])
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        if download:
            raise InputError(
                f"{text} could not be fetched: {first_line(error)}; try again, or give its folder"
            ) from error
        raise InputError(
            f"{text} is neither a folder here nor a model downloaded before: "
            "check the path, or allow the download (--download)"
        ) from error
    return folder


def load_model(folder: Path, source: str | Path, *, kind: str) -> Any:
    """Load the network in float32 and eval mode; refuse another kind and missing weights."""
    found = str(read_json_file(folder / "config.json").get("model_type", "unknown"))
    family = next((name for name in ("siglip", "clip") if found.startswith(name)), "sbert")
    if family != kind:
        raise InputError(
            f"{source} holds a model of type {found}, not one for {kind}; give another, or use "
            f"--encoder {family}" + (" if it reads text" if family == "sbert" else "")
        )
    weight_files(folder, source)
    try:
        model, info = transformers_package().AutoModel.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{source} cannot be loaded: {first_line(error)}; fetch it again, or use another"
        ) from error
    # A missing tensor is filled with random numbers and only warned about; BERT's pooler is unused.
    missing = sorted(
        key
        for key in info["missing_keys"]
        if not (kind == "sbert" and "pooler." in key) and not key.endswith("position_ids")
    )
    if missing:
        raise InputError(
            f"{source} lacks {len(missing)} of its weights, first {missing[0]}: fetch it again"
        )
    return model.float().eval()


def read_json_file(path: Path, *, list_ok: bool = False) -> Any:
    """The object in a JSON file, or the list where that is allowed; empty without the file."""
    if not path.is_file():
        return [] if list_ok else {}
    try:
        found = json.loads(read_text(path, "JSON"))
    except (ValueError, RecursionError) as error:  # the latter: thousands of brackets
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not JSON ({error}): fetch the model again") from error
    if not isinstance(found, dict) and not (list_ok and isinstance(found, list)):
        raise InputError(f"{path} holds a {type(found).__name__}: fetch the model again")
    check_names_no_hub(found, str(path))
    return found


def weight_files(folder: Path, source: str | Path) -> list[Path]:
    """The files that hold the weights, in their order; InputError where there are none."""
    for pattern in _WEIGHTS:
        if found := sorted(folder.glob(pattern)):
            return found
    raise InputError(f"{source} has no weights ({' or '.join(_WEIGHTS)}): fetch the model again")


def files_digest(paths: list[Path]) -> str:
    """SHA-256 of a file; of the digests of several."""
    digests = [file_digest(path) for path in paths]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
