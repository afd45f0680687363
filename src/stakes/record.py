"""One run put on disk: unlearn, score, and write a folder that appears whole or not at all."""

import importlib.metadata
import json
import math
import os
import platform
import resource
import secrets
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from stakes.anchors import Anchors
from stakes.classifier import Classifier
from stakes.data import Images
from stakes.errors import InputError
from stakes.evaluate import evaluate, select
from stakes.examples import Structure
from stakes.files import tensor_digest, write_text
from stakes.forget import ForgetSet
from stakes.methods import METHODS, Method, Unlearned
from stakes.progress import Report, silent

PACKAGES = ("stakes", "torch", "torchvision", "timm", "numpy", "safetensors")
PHASES = ("probes", "importance", "unlearn")
RUN_FILES = (
    "model.safetensors", "model.json", "row.json", "history.jsonl", "evidence.json",
    "stakes.safetensors", "report.html", "config.json", "preprocessor_config.json",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """Everything one run is asked for.

    Attributes:
        method: a method with its hyper-parameters.
        classifier: the trained network.
        forget: the pictures to forget.
        anchors: of the classifier's classes.
        retain: training images, scored and given to methods that need them; or None.
        test: test images, only scored; or None.
        seed: of every random choice.
        eval_samples: score at most this many test and retained images.
        thumbnails: whether the evidence and the report show the forget images.
        asked: words for the row: ``dataset``, ``forget``, ``weights``, ``command``.
    """

    method: Method
    classifier: Classifier
    forget: ForgetSet
    anchors: Anchors
    retain: Images | None = None
    test: Images | None = None
    seed: int = 0
    eval_samples: int | None = None
    thumbnails: bool = True
    asked: Mapping[str, Any] = field(default_factory=dict)


def run(request: Request, out: str | Path, report: Report = silent) -> dict[str, Any]:
    """Unlearn, score, and write ``out``: model, card, row, history, evidence, stakes and report.

    Where the same run was interrupted before, it goes on from there (see
    :mod:`stakes.checkpoint`).

    Returns:
        The row.

    Raises:
        InputError: a damaged image among those to score, or what the method refuses; before any
            long work, and with nothing written.
    """
    start, checkpoint = time.perf_counter(), checkpoint_beside(out)
    selected = select(
        request.forget,
        test=request.test,
        retain=request.retain,
        eval_samples=request.eval_samples,
        seed=request.seed,
        report=report,
    )
    selecting = time.perf_counter() - start
    result = request.method(
        request.classifier,
        request.forget,
        anchors=request.anchors,
        retain=request.retain if request.method.needs_retain else None,
        seed=request.seed,
        checkpoint=checkpoint,
        report=report,
    )
    scoring = time.perf_counter()
    scores, evidence = evaluate(
        request.classifier,
        result.classifier,
        request.forget,
        test=request.test,
        retain=request.retain,
        selected=selected,
        other=result.other,
        structure=Structure(result.stakes, request.anchors.card.get("texts", {})),
        thumbnails=request.thumbnails,
        report=report,
    )
    now = time.perf_counter()
    row = _asked(request) | scores | _outcome(result)
    row |= {"seconds_evaluate": selecting + now - scoring}
    row["seconds_total"] = now - start + result.earlier
    row |= {"peak_memory_mb": peak_memory_mb(request.classifier.device)}
    row |= _digests(request, result) | environment(request.classifier.device)
    row = _finite(row)
    with new_folder(out) as folder:
        _write(folder, request, result, row, evidence)
    shutil.rmtree(checkpoint.parent, ignore_errors=True)
    return row


def _write(
    folder: Path,
    request: Request,
    result: Unlearned,
    row: Mapping[str, Any],
    evidence: Mapping[str, list[dict[str, Any]]],
) -> None:
    from stakes.report import write_report  # only here: what it plots with is slow to import

    result.classifier.save(folder)
    held = {"anchors": request.anchors.vectors.cpu(), "stakes": result.stakes.cpu()}
    (folder / "stakes.safetensors").write_bytes(save(held))
    write_text(folder / "row.json", json.dumps(row, indent=1, allow_nan=False) + "\n")
    lines = (json.dumps(_finite(step), allow_nan=False) for step in result.history)
    write_text(folder / "history.jsonl", "\n".join(lines) + "\n")
    told = {key: [_finite(record) for record in records] for key, records in evidence.items()}
    write_text(folder / "evidence.json", json.dumps(told, allow_nan=False) + "\n")
    write_report([folder], folder / "report.html")


def check_out(
    out: str | Path,
    overwrite: bool,
    *,
    files: Collection[str] = RUN_FILES,
    mark: str = "row.json",
) -> None:
    """Refuse an output folder that cannot be made, or with something in it that is to stay.

    Args:
        out: the folder.
        overwrite: whether an earlier result in it may be replaced.
        files: names in an earlier result; a folder with others in it is never replaced.
        mark: the file without which it is no earlier result.

    Raises:
        InputError: ``out`` is a file, cannot be written, or is not empty and not to be replaced.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: give a folder that does not exist yet")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"--out {out}: nothing can be written in {above}; give another folder")
    held = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if held and not overwrite:
        raise InputError(f"--out {out} is not empty: give another folder, or add --overwrite")
    foreign = sorted(held.difference(files))
    if foreign or (held and mark not in held):
        name = [*foreign, *sorted(held)][0]
        raise InputError(
            f"--out {out} holds {name}, which is no part of an earlier result: --overwrite would "
            "delete it; give another folder"
        )


def checkpoint_beside(out: str | Path) -> Path:
    """Where a run that is to write ``out`` keeps its state, in a hidden folder of its own.

    >>> checkpoint_beside("/runs/one").as_posix()
    '/runs/.one.checkpoint/state.pt'
    """
    out = Path(out).resolve()
    return out.with_name(f".{out.name}.checkpoint") / "state.pt"


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """Give a folder of the same name beside ``out``; on success it takes its place, else it goes.

    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "run"
    >>> with new_folder(out) as folder:
    ...     _ = (folder / "row.json").write_text("{}")
    ...     folder.name, out.exists()
    ('run', False)
    >>> [path.name for path in out.iterdir()], [path.name for path in out.parent.iterdir()]
    (['row.json'], ['run'])
    """
    out = Path(out).resolve()  # a link stays, and what it leads to is replaced
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    made, old = beside / "new" / out.name, beside / "old"
    made.mkdir(parents=True)
    try:
        yield made
        if out.exists():
            out.rename(old)
        made.rename(out)
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(beside, ignore_errors=True)


def method_name(method: Method) -> str:
    """The method's name on the command line."""
    return next(name for name, kind in METHODS.items() if isinstance(method, kind))


def _asked(request: Request) -> dict[str, Any]:
    method, classifier = request.method, request.classifier
    preset = request.asked.get("preset")
    fields = asdict(method)
    return {
        "method": method_name(method),
        "method_title": method.title + (f" ({preset})" if preset else ""),
        "needs_retain": method.needs_retain,
        **{f"method_{name}": value for name, value in fields.items()},
        "model": classifier.spec,
        "num_classes": classifier.num_classes,
        "k": len(request.forget),
        "seed": request.seed,
        "eval_samples": request.eval_samples,
        "anchors": request.anchors.card.get("name") or request.anchors.card.get("encoder"),
        **request.asked,
    }


def _outcome(result: Unlearned) -> dict[str, Any]:
    last = result.history[-1]
    looks = [step["drift"] for step in result.history if "drift" in step]
    return {
        "deploy": "direct" if result.classifier.projector is None else "projected",
        "drift_probes": looks[-1],
        "steps": int(last["step"]),
        "stop_reason": result.stop_reason,
        **{f"chosen_{name}": value for name, value in result.chosen.items()},
        **{f"seconds_{phase}": None for phase in PHASES},
        **{f"seconds_{phase}": spent for phase, spent in result.seconds.items()},
    }


def _digests(request: Request, result: Unlearned) -> dict[str, str]:
    return {
        "weights_digest": request.classifier.digest(),
        "unlearned_digest": result.classifier.digest(),
        "forget_digest": request.forget.digest(),
        "anchors_digest": request.anchors.digest(),
        "stakes_digest": tensor_digest({"stakes": result.stakes}),
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware and date: what a number needs to be repeated."""
    versions = {f"version_{name}": importlib.metadata.version(name) for name in PACKAGES}
    return {
        **versions,
        "version_python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held at once, in MiB: of the process, or of the accelerator where one is used."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with None for NaN and infinities, which JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
