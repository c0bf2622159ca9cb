"""Files that are written whole or not at all, and their checksums."""

import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """A file to write that is put at `path` at the end, whole or not at all, on disk then.

    A link at its temporary name is removed, and what it leads to stays as it is.
    """
    partial = path.with_name(f".{path.name}.hdistill-partial")  # a name that nobody else gives
    partial.unlink(missing_ok=True)
    with partial.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a text whole or not at all, as UTF-8, its line ends as they are."""
    with whole(path) as file:
        file.write(text.encode())


def open_own(path: pathlib.Path, flags: int) -> int:
    """Opens a file of ours to append to, made if it is not there.

    Raises:
      ValueError: a link is in its place, which would lead the writing elsewhere.
    """
    try:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ValueError(f"{path} is a link: expected a file of the run's; delete it") from error


def read_json(path: pathlib.Path) -> dict | None:
    """What a JSON file holds, an object, or None if the file does not exist.

    Raises:
      ValueError: it is damaged.
    """
    if not path.exists():
        return None
    if not path.is_file():
        raise ValueError(f"{path} is not a file: expected one, of JSON")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(_damaged(path, f"JSON, but {error}")) from error
    if not isinstance(content, dict):
        raise ValueError(_damaged(path, "a JSON object"))
    return content


def _damaged(path: pathlib.Path, expected: str) -> str:
    return (
        f"{path} is damaged, or no run wrote it: expected {expected}; delete it and resume, or "
        "choose another folder"
    )


def differences(before: dict, now: dict, keys) -> str:
    """What differs between two configurations under some keys, for a message; "" if nothing."""
    texts = ((k, *(repr(c[k]) if k in c else "nothing" for c in (before, now))) for k in keys)
    return "; ".join(f"{k}={then} there, {here} now" for k, then, here in texts if then != here)


def as_json(content) -> str:
    """The text of a JSON file; a number that is not finite is refused."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plain(name: str, value):
    """What JSON can hold of a figure: arrays as numbers and lists, null for what is not finite.

    Raises:
      ValueError: JSON cannot hold it; the message names it.
    """
    if isinstance(value, dict):
        return {str(k): plain(f"{name}[{k!r}]", v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(f"{name}[{i}]", v) for i, v in enumerate(value)]
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return plain(name, value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    raise ValueError(f"{name} is a {type(value).__name__}, {value!r}: expected what JSON holds")


def digest(content: dict) -> str:
    """SHA-256 of what a JSON file holds."""
    return hashlib.sha256(as_json(content).encode()).hexdigest()


def checksum(path: pathlib.Path) -> str:
    """SHA-256 of a file, its name included."""
    digest = hashlib.sha256(path.name.encode() + b"\0")
    digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
