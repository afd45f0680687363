"""Text encoders: texts -> (n, d) unit rows, from a local folder or a model hub.

All three need the optional ``transformers`` package (``pip install "stakes[text]"``), which is
imported only when an encoder is loaded. Nothing is fetched unless ``download=True``.
"""

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stakes.errors import InputError, first_line
from stakes.files import file_digest
from stakes.models.offline import check_names_no_hub
from stakes.texts import expanded, read_text

SEPARATOR = "; "
"""Stands between the attributes of a description; a text that is too long is split here."""

_BATCH = 32
_CONFIGURATION = ("*.json", "*.txt", "*.model")
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True, eq=False)
class Encoder:
    """A frozen text encoder.

    A text longer than ``max_tokens`` is never cut: it is split between attributes (at
    ``SEPARATOR``) into the fewest parts that fit, filled in order. Its row is the mean of the
    parts' unit vectors, each weighted by its number of attributes, scaled to unit length.

    Attributes:
        tokenizer: a transformers tokenizer.
        embed: ``(input_ids, attention_mask) -> (n, d)``, both inputs (n, tokens) int64.
        padding: ``"longest"`` or ``"max_length"``, as the model was trained.
        max_tokens: longest input, special tokens included.
        width: d, the length of a row.
        card: ``encoder`` (kind), ``model`` (name), ``encoder_digest`` (SHA-256 of the weights
            file; of the digests of its parts where there are several), ``max_tokens``,
            ``pooling``, ``long_texts``, ``transformers`` (version).
    """

    tokenizer: Any
    embed: Callable[[Tensor, Tensor], Tensor]
    padding: str
    max_tokens: int
    width: int
    card: dict[str, Any]

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Encode texts into (n, width) float32 unit rows.

        Raises:
            InputError: a text is empty, one of its attributes alone is longer than
                ``max_tokens``, or the model gives a zero or non-finite vector.
        """
        parts = [self._parts(text) for text in texts]
        if not parts:
            return torch.zeros(0, self.width)
        flat = [SEPARATOR.join(part) for of_one in parts for part in of_one]
        weights = torch.tensor([float(len(part)) for of_one in parts for part in of_one])
        owner = torch.tensor([i for i, of_one in enumerate(parts) for _ in of_one])
        batches = [self._embed(flat[i : i + _BATCH]) for i in range(0, len(flat), _BATCH)]
        weighted = F.normalize(torch.cat(batches)) * weights[:, None]
        rows: Tensor = torch.zeros(len(parts), self.width).index_add_(0, owner, weighted)
        norms: Tensor = rows.norm(dim=1)
        bad = torch.nonzero(~(norms.isfinite() & (norms > 0))).flatten().tolist()
        if bad:
            raise InputError(f"the encoder gives no usable vector for {_short(texts[bad[0]])}")
        return rows / norms[:, None]

    def cut(self, texts: Sequence[str]) -> list[int]:
        """Give the indices of the texts longer than ``max_tokens``, which are encoded in parts."""
        return [i for i, text in enumerate(texts) if self._tokens(text) > self.max_tokens]

    def _tokens(self, text: str) -> int:
        return len(self.tokenizer(text, truncation=False, verbose=False)["input_ids"])

    def _parts(self, text: str) -> list[list[str]]:
        if not text.strip():
            raise InputError("there is an empty text to encode: describe every class")
        parts: list[list[str]] = []
        for attribute in text.split(SEPARATOR):
            if parts and self._tokens(SEPARATOR.join([*parts[-1], attribute])) <= self.max_tokens:
                parts[-1].append(attribute)
                continue
            tokens = self._tokens(attribute)
            if tokens > self.max_tokens:
                raise InputError(
                    f"the attribute {_short(attribute)} has {tokens} tokens and the encoder takes "
                    f"{self.max_tokens}: shorten it, or split it in two attributes"
                )
            parts.append([attribute])
        return parts

    @torch.no_grad()
    def _embed(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(
            texts,
            padding=self.padding,
            max_length=self.max_tokens,
            truncation=False,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return self.embed(tokens["input_ids"], tokens["attention_mask"]).float()


def load_clip(
    source: str | Path = "openai/clip-vit-base-patch32", *, download: bool = False
) -> Encoder:
    """Load the text half of a CLIP model (Radford et al. 2021), the paper's choice.

    Raises:
        InputError: transformers is missing, ``source`` is no folder with a CLIP model nor a
            model already downloaded (with ``download``: that can be fetched).
    """
    folder = _folder(source, download)
    model = _model(folder, source, kind="clip")

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
    folder = _folder(source, download)
    model = _model(folder, source, kind="siglip")

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
    folder = _folder(source, download)
    _check_mean_pooling(folder, source)
    model = _model(folder, source, kind="sbert")

    def embed(ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
        keep = mask[:, :, None].to(states.dtype)
        return (states * keep).sum(dim=1) / keep.sum(dim=1)

    width = int(model.config.hidden_size)
    return _encoder("sbert", source, folder, model, embed, width, "mean over tokens")


ENCODERS: dict[str, Callable[..., Encoder]] = {
    "clip": load_clip,
    "siglip": load_siglip,
    "sbert": load_sbert,
}
"""Name -> loader ``(source, *, download=False) -> Encoder``; ``source``: a folder or hub name."""


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
    transformers = _transformers()
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
    sentence = _json(folder / "sentence_bert_config.json")
    if kind == "sbert":
        max_tokens = min(max_tokens, int(sentence.get("max_seq_length") or max_tokens))
    local = isinstance(source, Path) or Path(source).is_absolute()
    card = {
        "encoder": kind,
        "model": Path(source).name if local else str(source),
        "encoder_digest": _digest(_weights(folder, source)),
        "max_tokens": max_tokens,
        "pooling": pooling,
        "long_texts": "split between attributes; mean of the parts' unit vectors, "
        "weighted by their number of attributes",
        "transformers": str(transformers.__version__),
    }
    padding = "max_length" if kind == "siglip" else "longest"
    return Encoder(tokenizer, embed, padding, max_tokens, width, card)


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise InputError(
            'text encoders need the transformers package: pip install "stakes[text]"'
        ) from None


def _folder(source: str | Path, download: bool) -> Path:
    """Find the model's folder: a local path first, then the hub's cache, then (asked) the hub."""
    _transformers()
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
            raise InputError(f"{text} could not be fetched: {first_line(error)}") from error
        raise InputError(
            f"{text} is neither a folder here nor a model downloaded before: "
            "check the path, or allow the download (--download)"
        ) from error
    return folder


def _model(folder: Path, source: str | Path, *, kind: str) -> Any:
    """Load the network in float32 and eval mode; refuse another kind and missing weights."""
    found = str(_json(folder / "config.json").get("model_type", "unknown"))
    family = next((name for name in ("siglip", "clip") if found.startswith(name)), "sbert")
    if family != kind:
        raise InputError(
            f"{source} holds a model of type {found}, not one for {kind}: use --encoder {family}"
        )
    _weights(folder, source)
    try:
        model, info = _transformers().AutoModel.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"{source} cannot be loaded: {first_line(error)}") from error
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


def _pooled(output: Any) -> Tensor:
    """Take the vectors: transformers 5 gives an object, 4 a tensor."""
    pooled: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return pooled


def _check_mean_pooling(folder: Path, source: str | Path) -> None:
    pooling = _json(folder / "1_Pooling" / "config.json")
    if pooling and not pooling.get("pooling_mode_mean_tokens", False):
        raise InputError(f"{source} does not pool by the mean of its tokens: use another encoder")
    modules = _json(folder / "modules.json", list_ok=True)
    if any("Dense" in str(module.get("type", "")) for module in modules):
        raise InputError(f"{source} has layers after its pooling: use another encoder")


def _json(path: Path, *, list_ok: bool = False) -> Any:
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


def _weights(folder: Path, source: str | Path) -> list[Path]:
    for pattern in _WEIGHTS:
        if found := sorted(folder.glob(pattern)):
            return found
    raise InputError(f"{source} has no weights ({' or '.join(_WEIGHTS)}): fetch the model again")


def _digest(paths: list[Path]) -> str:
    digests = [file_digest(path) for path in paths]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _short(text: str) -> str:
    return f'"{text[:40]}..."' if len(text) > 40 else f'"{text}"'
