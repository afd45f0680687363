"""What networks answered, kept on disk, so that interrupted scoring resumes.

Answers belong to a batch, known by the pixels and labels up to its end, and to everything else
that their bits depend on. A second start therefore reads the images again, since they may have
changed, but passes none through a network that has passed already. What an audit found is kept too.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from stakes.errors import InputError
from stakes.files import read_sealed, tensor_digest, write_sealed
from stakes.models.classifier import Classifier
from stakes.preprocessing import sides
from stakes.training import distributed
from stakes.training.checkpoint import WORTH, surroundings

EVERY = 30.0  # seconds between two files
Answers = dict[str, Tensor]


class Kept:
    """The files ``scored-JOB-*`` of a folder, each with the answers of some batches.

    A file begins with the SHA-256 of the rest, which is in the format of safetensors. One that is
    damaged, or possibly written by somebody else, is passed over.

    Args:
        folder: of the files; without one nothing is read or written.
        job: the digest of the run that scores; files of other runs are not read.

    >>> Kept().answers("of a batch", lambda: {"rows": Tensor([1.0])})
    {'rows': tensor([1.])}
    """

    def __init__(self, folder: str | Path | None = None, job: str = "") -> None:
        self._folder = None if folder is None else Path(folder)
        self._prefix = f"scored-{job[:16]}-"
        self._networks = ""
        self._found: dict[str, Answers] = {}
        self._new: Answers = {}
        self._written = 0.0

    @contextmanager
    def of(self, networks: Mapping[str, Classifier]) -> Iterator[None]:
        """Keep answers of these networks within the block; an error there loses none of them.

        The networks are in eval mode.
        """
        if self._folder is None:
            yield
            return
        job = {name: _identity(network) for name, network in networks.items()}
        job |= {f"on {n.device}": json.dumps(surroundings(n.device)) for n in networks.values()}
        job["number of processes"] = str(distributed.count())
        self._networks = json.dumps(job, sort_keys=True)
        self._found, self._written = self._read(), time.monotonic()
        try:
            yield
        except BaseException:
            self._write()
            raise
        if time.monotonic() >= self._written + WORTH:
            self._write()
        self._found, self._new = {}, {}

    def answers(self, batch: str, compute: Callable[[], Answers]) -> Answers:
        """The answers on a batch: from the files, else by ``compute``.

        Args:
            batch: a digest of its pixels and labels, and of what is asked about them.
            compute: passes the batch; tensors by name.
        """
        if self._folder is None:
            return compute()
        key = hashlib.sha256(f"{self._networks} {batch}".encode()).hexdigest()
        found = self._found.pop(key, None)
        if found is not None:
            return found
        found = compute()
        self._new |= {f"{key} {name}": tensor.contiguous() for name, tensor in found.items()}
        if time.monotonic() >= self._written + EVERY:
            self._write()
        return found

    def values(self, name: str, compute: Callable[[], Any]) -> Any:
        """As :meth:`answers`, of anything that JSON can hold.

        Args:
            name: of the values, with a digest of all that they are computed from.
            compute: gives them.
        """
        if self._folder is None:
            return compute()

        def packed() -> Answers:
            text = bytearray(json.dumps(compute()).encode())
            return {"json": torch.frombuffer(text, dtype=torch.uint8)}

        return json.loads(self.answers(name, packed)["json"].numpy().tobytes())

    def there(self) -> list[Path]:
        """The files that are there."""
        return [] if self._folder is None else sorted(self._folder.glob(f"{self._prefix}*"))

    def clear(self) -> None:
        """Remove the files, and the folder if nothing else is in it: the result is there."""
        for file in self.there():
            file.unlink(missing_ok=True)
        if self._folder is not None:
            with suppress(OSError):
                self._folder.rmdir()

    def _read(self) -> dict[str, Answers]:
        """The answers by batch; in every process those that the writer reads."""
        tensors: Answers = {}
        for file in self.there() if distributed.is_writer() else []:
            with suppress(Exception):  # whatever a file may hold
                tensors |= load(read_sealed(file))
        if distributed.count() > 1:
            tensors = load(distributed.from_writer(save(tensors)))
        found: dict[str, Answers] = {}
        for name, tensor in tensors.items():
            key, _, own = name.partition(" ")
            found.setdefault(key, {})[own] = tensor
        return found

    def _write(self) -> None:
        """Write what is new; if that fails, such as on a full disk, scoring continues."""
        if self._folder is not None and self._new and distributed.is_writer():
            first = next(iter(self._new))  # begins with the digest of its batch
            with suppress(OSError, InputError):
                write_sealed(self._folder / f"{self._prefix}{first[:16]}", save(self._new))
        self._new, self._written = {}, time.monotonic()


@torch.no_grad()
def _identity(network: Classifier) -> str:
    """All numbers of a network, and its answers to two fixed images: its code may have changed."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *sides(network.input_size), generator=generator)
    features, logits = network.both(images.to(network.device))
    numbers = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return tensor_digest({**numbers, "its features": features, "its logits": logits})
