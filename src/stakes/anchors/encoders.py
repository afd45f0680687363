"""The text encoders by name (ENCODERS): CLIP, SigLIP, and sentence encoders.

Each comes from a local folder or a model hub. Nothing is fetched unless ``download=True``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from stakes.anchors.encoder import Encoder, TextEncoder
from stakes.anchors.model_folder import (
    files_digest,
    load_model,
    model_folder,
    read_json_file,
    transformers_package,
    weight_files,
)
from stakes.errors import InputError, first_line


def load_clip(
    source: str | Path = "openai/clip-vit-base-patch32", *, download: bool = False
) -> Encoder:
    """Load the text half of a CLIP model (Radford et al. 2021), the paper's choice.

    Raises:
        InputError: transformers is missing, ``source`` is no folder with a CLIP model nor a
            model already downloaded (with ``download``: that can be fetched).
    """
    folder = model_folder(source, download)
    model = load_model(folder, source, kind="clip")

    def embed(ids: Tensor, mask: Tensor) -> Tensor:
        return _pooled(model.get_text_features(input_ids=ids, attention_mask=mask))

    width = int(model.config.projection_dim)
    return _encoder("clip", source, folder, model, embed, width, "end-of-text token, projected")


def load_siglip(
    source: str | Path = "google/siglip-base-patch16-224", *, download: bool = False
) -> Encoder:
    """Load the text half of a SigLIP model (Zhai et al. 2023).

    It was trained on texts padded to full length without a mask, so they are encoded that way.

    Raises:
        InputError: as :func:`load_clip`.
    """
    folder = model_folder(source, download)
    model = load_model(folder, source, kind="siglip")

    def embed(ids: Tensor, mask: Tensor) -> Tensor:
        return _pooled(model.get_text_features(input_ids=ids))

    width = int(model.text_model.head.out_features)
    return _encoder("siglip", source, folder, model, embed, width, "last token, projected")


def load_sbert(
    source: str | Path = "sentence-transformers/all-MiniLM-L6-v2", *, download: bool = False
) -> Encoder:
    """Load a sentence encoder (Reimers and Gurevych 2019): mean of the unmasked token vectors.

    Raises:
        InputError: as :func:`load_clip`; or the folder asks for another pooling than the mean.
    """
    folder = model_folder(source, download)
    _check_mean_pooling(folder, source)
    model = load_model(folder, source, kind="sbert")
    if model.main_input_name != "input_ids":
        raise InputError(
            f"{source} holds a model of type {model.config.model_type}, which reads no text; "
            "give a text encoder"
        )

    def embed(ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1)

    width = int(model.config.hidden_size)
    return _encoder("sbert", source, folder, model, embed, width, "mean over tokens")


ENCODERS: dict[str, Callable[..., TextEncoder]] = {
    "clip": load_clip,
    "siglip": load_siglip,
    "sbert": load_sbert,
}
"""Name -> loader ``(source, *, download=False)``; ``source``: what --encoder-path says."""


def _encoder(
    kind: str,
    source: str | Path,
    folder: Path,
    model: Any,
    embed: Callable[[Tensor, Tensor], Tensor],
    width: int,
    pooling: str,
) -> Encoder:
    """Add the tokenizer, the longest input and the card."""
    transformers = transformers_package()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise InputError(
            f"{source} has no tokenizer that can be read ({first_line(error)}); SigLIP's also "
            "needs: pip install sentencepiece protobuf"
        ) from error
    text = getattr(model.config, "text_config", model.config)
    max_tokens = min(int(text.max_position_embeddings), int(tokenizer.model_max_length))
    sentence = read_json_file(folder / "sentence_bert_config.json")
    if kind == "sbert":
        max_tokens = min(max_tokens, int(sentence.get("max_seq_length") or max_tokens))
    local = isinstance(source, Path) or Path(source).is_absolute()
    card = {
        "encoder": kind,
        "model": Path(source).name if local else str(source),
        "encoder_digest": files_digest(weight_files(folder, source)),
        "max_tokens": max_tokens,
        "pooling": pooling,
        "long_texts": "split between attributes; mean of the parts' unit vectors, "
        "weighted by their number of attributes",
        "transformers": str(transformers.__version__),
    }
    padding = "max_length" if kind == "siglip" else "longest"
    return Encoder(tokenizer, embed, padding, max_tokens, width, card)


def _pooled(output: Any) -> Tensor:
    """Take the vectors: transformers 5 gives an object, 4 a tensor."""
    pooled: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return pooled


def _check_mean_pooling(folder: Path, source: str | Path) -> None:
    pooling = read_json_file(folder / "1_Pooling" / "config.json")
    if pooling and not pooling.get("pooling_mode_mean_tokens", False):
        raise InputError(f"{source} does not pool by the mean of its tokens: use another encoder")
    modules = read_json_file(folder / "modules.json", list_ok=True)
    if any("Dense" in str(module.get("type", "")) for module in modules):
        raise InputError(f"{source} has layers after its pooling: use another encoder")
