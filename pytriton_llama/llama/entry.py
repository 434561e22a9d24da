"""A folder that is there whole or not at all, made by one process at a time, with the SHA-256 of what it held then."""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pytriton_llama.errors import LlamaError

SUMS = "pytriton_llama.sha256"  # as sha256sum writes and reads it

Progress = Callable[[str], object]


def make(folder: Path, fill: Callable[[Path], object], progress: Progress) -> Path:
    """``folder``, which ``fill`` writes under another name first where it is not there yet, or no longer as it was.

    What fails leaves all as it was; what is killed leaves one folder beside, which the next run removes. A process
    that comes second waits, and takes the first one's. Raises :class:`LlamaError`.
    """
    own = folder.with_name(f".fetch-{folder.name}")
    try:
        # What a killed process left is there beside a whole folder too, if it was killed at the very end.
        while not os.path.isdir(folder) or damaged(folder) or own.exists():
            own.mkdir(parents=True, exist_ok=True)
            with _locked(own, partial(progress, f"{folder.name}: another process makes it: waiting")) as locked:
                if locked:
                    _make(folder, own, fill, progress)
                    break
    except OSError as error:
        raise LlamaError(f"{folder.name}: cannot be written to {folder.parent}: {error}") from error
    return folder


@contextlib.contextmanager
def _locked(path: Path, before_waiting: Callable[[], object]) -> Iterator[bool]:
    """Whether the folder ``path`` is this process's alone: not where whoever had it has removed it meanwhile."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except BlockingIOError:
            before_waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield _is(path, handle)
    finally:
        os.close(handle)


def _is(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _make(folder: Path, own: Path, fill: Callable[[Path], object], progress: Progress) -> None:
    """``folder`` by way of ``own``, which may hold what a killed process left, and is removed."""
    try:
        if os.path.isdir(folder):
            if not (name := damaged(folder)):
                return
            progress(f"{folder / name} is damaged: making the folder anew")
        for left in own.iterdir():
            shutil.rmtree(left)
        part = own / "folder"
        fill(part)
        sums = [f"{sha256(file)}  {file.name}\n" for file in sorted(part.iterdir()) if file.is_file()]
        (part / SUMS).write_text("".join(sums), encoding="utf-8")
        if os.path.isdir(folder):
            folder.rename(own / "damaged")
        part.rename(folder)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def damaged(folder: Path) -> str | None:
    """A file that is not what it was when ``folder`` was made, by name; None: there is none, or nobody recorded it."""
    sums = folder / SUMS
    if not os.path.isfile(sums):
        return None
    recorded = [line.partition("  ") for line in sums.read_text(encoding="utf-8", errors="replace").splitlines()]
    for expected, _, name in recorded:
        file = folder / os.path.basename(name)
        if not os.path.isfile(file) or sha256(file) != expected:
            return os.path.basename(name) or SUMS
    return None if recorded else SUMS


@contextlib.contextmanager
def telling_damage(folder: Path) -> Iterator[None]:
    """Adds to a :class:`LlamaError` of reading ``folder`` which file of it is damaged, and what to do."""
    try:
        yield
    except LlamaError as error:
        with contextlib.suppress(OSError):  # what may not be read is the first error's to tell
            if name := damaged(folder):
                advice = f"{name} is no longer what was written: fetch, import or quantize again makes it anew"
                raise LlamaError(f"{error} ({advice}; or delete {folder})") from error
        raise


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
