"""Made by hand: what a check of a network found, and the result of a finished run."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from stakes.files import tensor_digest
from stakes.manifest import write_manifest
from stakes.training.monitor import Check


def found(forgotten: bool, drift: float = 0.0) -> Check:
    """A check of one image that is forgotten or not, at this structural drift."""
    lead = torch.tensor([-1.0 if forgotten else 1.0])
    return Check(lead, lead, drift, view_margins=lead[:0], view_leads=lead[:0], needed=1.0)


def write_result(folder: Path) -> None:
    """A folder as a run leaves it, as far as `stakes bench` reads it."""
    folder.mkdir()
    tensors = {"weight": torch.ones(2, 3)}
    save_file(tensors, folder / "model.safetensors")
    row = {"unlearned_digest": tensor_digest(tensors), "k": 4, "acc_test": 90.0, "acc_forget": 0}
    (folder / "row.json").write_text(json.dumps(row))
    (folder / "evidence.json").write_text(json.dumps({"forget": [{"name": "one"}]}))
    write_manifest(folder)
