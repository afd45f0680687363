"""A frozen text encoder: texts -> (n, d) unit rows, none of them cut."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from stakes.errors import InputError

SEPARATOR = "; "
"""Stands between the attributes of a description; a text that is too long is split here."""

_BATCH = 32


class TextEncoder(Protocol):
    """What makes anchors of texts.

    Attributes:
        card: of the anchors' provenance: at least ``encoder``, a name.
    """

    @property
    def card(self) -> dict[str, Any]: ...  # noqa: D102

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Encode texts into (n, d) float32 unit rows on the CPU."""
        ...

    def cut(self, texts: Sequence[str]) -> list[int]:
        """Give the indices of texts that are too long, and are encoded in parts; or []."""
        ...


@dataclass(frozen=True, eq=False)
class Encoder:
    """A frozen text encoder of transformers.

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
            raise InputError(
                f"the encoder gives no usable vector for {_short(texts[bad[0]])}: reword it"
            )
        return rows / norms[:, None]

    def cut(self, texts: Sequence[str]) -> list[int]:
        """Give the indices of the texts longer than ``max_tokens``, which are encoded in parts."""
        return [i for i, text in enumerate(texts) if self._tokens(text) > self.max_tokens]

    def _tokens(self, text: str) -> int:
        return len(self.tokenizer(text, truncation=False, verbose=False)["input_ids"])

    def _parts(self, text: str) -> list[list[str]]:
        if not text.strip():
            raise InputError("a text to encode is empty: describe every class")
        parts: list[list[str]] = []
        for attribute in text.split(SEPARATOR):
            if parts and self._tokens(SEPARATOR.join([*parts[-1], attribute])) <= self.max_tokens:
                parts[-1].append(attribute)
                continue
            tokens = self._tokens(attribute)
            if tokens > self.max_tokens:
                raise InputError(
                    f"the attribute {_short(attribute)} has {tokens} tokens, but the encoder "
                    f"takes {self.max_tokens}: shorten it, or split it into two attributes"
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


def _short(text: str) -> str:
    return f'"{text[:40]}..."' if len(text) > 40 else f'"{text}"'
