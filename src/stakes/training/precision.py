"""Half-width arithmetic where the hardware has it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context in which a network's passes run in ``precision``; its weights stay as they are.

    ``auto`` is bfloat16 where the accelerator, or a processor of the x86 family, has instructions
    for it, else float32: nothing is timed, so the same machine gives the same bits.
    """
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16(device) else "float32"
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` computes in bfloat16 faster than in float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # it asks about the current one
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
