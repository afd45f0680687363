"""Files that are whole or not there, on the disk before they count, and for their owner alone.

Every writer of the package goes through here. A file is written beside its place, synced, renamed
and its folder synced, so that neither a kill nor a power cut leaves half of it.
"""

import errno
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stakes.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
#: As the umask has it: for files that hold nothing personal, such as anchors.
SHARED_FILE = 0o666
DIGEST = hashlib.sha256().digest_size  # bytes before the content of a sealed file
LONGEST_NAME = 255  # bytes, on all usual file systems
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # nor wait for a FIFO
CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}  # folders of some network file systems


@contextmanager
def replacing(path: str | Path, mode: int = PRIVATE_FILE) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success rename it to ``path``, else remove it.

    A link of one's own stays, and the file that it leads to is replaced. What an earlier writer
    left when it was killed is written over.

    Args:
        path: of the file; missing folders above it are made.
        mode: permissions, less the umask.

    Raises:
        InputError: ``path`` is a folder, a device, or somebody else's link.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "row.json"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("{}")
    >>> target.read_text(), [file.name for file in target.parent.iterdir()]
    ('{}', ['row.json'])
    """
    target = regular(path)
    make_folder(target.parent)
    temporary = hidden(target, "unfinished")
    with locked(temporary, wait=True, mode=mode):
        try:
            yield temporary
            sync(temporary)
            temporary.replace(target)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(target)  # a write, unlike an opening, leaves it out
            raise
    sync(target.parent)


def write_bytes(path: str | Path, content: bytes, mode: int = PRIVATE_FILE) -> None:
    """Write ``content`` to ``path`` in one step (see :func:`replacing`)."""
    with replacing(path, mode) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str, mode: int = PRIVATE_FILE) -> None:
    r"""Write ``text`` to ``path`` in one step, in UTF-8; what that cannot hold, as ``\udcff``."""
    write_bytes(path, text.encode(errors="backslashreplace"), mode)


def regular(path: str | Path) -> Path:
    """The file to replace when ``path`` is to be written: itself, or where a link of ours leads.

    Raises:
        InputError: a folder, a device, a FIFO, a socket, or a link that somebody else made.
    """
    path = Path(path)
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            if not trusted(found):
                raise InputError(
                    f"{path} is a link that belongs to another user: give another file"
                )
            path = path.resolve(strict=True)
            found = path.lstat()
    except FileNotFoundError:
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "a link in a circle"
        raise InputError(f"{path} cannot be written: {reason}; give another file") from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path} is a folder: give the name of a file")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is a device or a pipe: give the name of a file")
    return path


def check_file(
    path: str | Path, overwrite: bool, earlier: Callable[[Path], bool] = lambda found: True
) -> None:
    """Refuse, before any work, a file that cannot be written, or is there and not to be replaced.

    Args:
        path: the file.
        overwrite: whether one that is there may be replaced.
        earlier: whether one that is there is an earlier result of the same kind; no other is
            replaced.

    Raises:
        InputError: see :func:`regular`; or it exists, or nothing can be written there.
    """
    place = regular(path)
    if place.exists() and not overwrite:
        raise InputError(f"--out {path} exists: give another file, or add --overwrite")
    if place.exists() and not earlier(place):
        raise InputError(f"--out {path} was not written by this command: give another file")
    above = next(folder for folder in place.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise InputError(
            f"--out {path}: nothing can be written in {above} ({error.strerror}); "
            "give another place"
        ) from error


def hidden(path: Path, kind: str) -> Path:
    """A hidden name beside ``path`` for what belongs to it, never longer than names may be.

    >>> hidden(Path("/runs/one"), "unfinished").as_posix()
    '/runs/.one.unfinished'
    """
    name = f".{path.name}.{kind}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}.{kind}"
    return path.with_name(name)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder where there is none, and those above it as the umask has them."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode, exist_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the disk holds a file's content, or a folder's names."""
    if os.name == "nt" and path.is_dir():
        return  # folders cannot be opened there
    number = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(number)


@contextmanager
def locked(path: Path, *, wait: bool = False, mode: int = PRIVATE_FILE) -> Iterator[int]:
    """Hold a lock on the file ``path`` within the block; it is made where there is none.

    The lock goes with the process, however that ends. Where the system has none, nothing is
    locked.

    Args:
        path: of the file.
        wait: for another holder, instead of refusing.
        mode: permissions of a new file, less the umask.

    Yields:
        The descriptor of the file.

    Raises:
        BlockingIOError: another holds it.
        PermissionError: the file is somebody else's, or none.
    """
    if sys.platform == "win32":
        path.touch()  # an open file could not be renamed there
        yield -1
        return
    number = _lock(path, wait, mode)
    try:
        yield number
    finally:
        os.close(number)


def _lock(path: Path, wait: bool, mode: int) -> int:
    import fcntl  # only here: not every system has it

    while True:
        number = os.open(path, os.O_RDWR | os.O_CREAT | NO_FOLLOW, mode)
        try:
            found = os.fstat(number)
            if not (stat.S_ISREG(found.st_mode) and ours(found)):
                raise PermissionError(errno.EPERM, "does not belong to you", str(path))
            try:
                fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise
            except OSError:
                return number  # a file system without locks
            with suppress(FileNotFoundError):  # its last holder may have removed or renamed it
                if os.path.samestat(found, os.lstat(path)):
                    return number
        except BaseException:
            os.close(number)
            raise
        os.close(number)


def read_own(path: Path) -> bytes:
    """The content of a regular file of one's own, no link followed.

    Raises:
        OSError: it cannot be read.
        PermissionError: somebody else may have written it.
    """
    number = os.open(path, os.O_RDONLY | NO_FOLLOW | getattr(os, "O_BINARY", 0))
    with open(number, "rb") as file:
        found = os.fstat(number)
        open_to_all = os.name != "nt" and bool(found.st_mode & stat.S_IWOTH)
        if open_to_all or not (stat.S_ISREG(found.st_mode) and ours(found)):
            raise PermissionError(errno.EPERM, "another user may have written it", str(path))
        return file.read()


def write_sealed(path: str | Path, content: bytes) -> None:
    """Write ``content`` in one step, after its SHA-256, for :func:`read_sealed`."""
    write_bytes(path, hashlib.sha256(content).digest() + content)


def read_sealed(path: Path) -> bytes:
    """What :func:`write_sealed` wrote, from a regular file of one's own.

    Raises:
        OSError: it cannot be read, or somebody else may have written it.
        ValueError: it is damaged.
    """
    whole = read_own(path)
    digest, content = whole[:DIGEST], whole[DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("it is damaged")
    return content


def private(path: str, flags: int) -> int:
    """An ``opener`` for :func:`open`: a new file is for its owner alone."""
    return os.open(path, flags | NO_FOLLOW, PRIVATE_FILE)


def ours(found: os.stat_result) -> bool:
    """Whether it belongs to whoever runs this."""
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()


def trusted(found: os.stat_result) -> bool:
    """Whether it belongs to whoever runs this, or to the administrator."""
    return found.st_uid == 0 or ours(found)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_digest(tensors: Mapping[str, "Tensor"]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, in the order of their names.

    >>> import torch
    >>> tensor_digest({"a": torch.zeros(2)}) == tensor_digest({"a": torch.zeros(2)})
    True
    >>> tensor_digest({"a": torch.zeros(2)}) == tensor_digest({"a": torch.zeros(1, 2)})
    False
    """
    import torch  # here: the ground files do without it, and so does a report

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
