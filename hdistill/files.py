"""Files that are written whole or not at all, and their checksums."""

import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """A file to write that is put at `path` at the end, whole or not at all, on disk then.

    A link at its temporary name is removed, and what it leads to stays as it is.
    """
    partial = path.with_name(f".{path.name}.hdistill-partial")  # a name that nobody else gives
    if partial.is_dir() and not partial.is_symlink():
        raise ValueError(f"{partial} is a folder: expected none of this name; move it away")
    partial.unlink(missing_ok=True)
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a text whole or not at all, as UTF-8, its line ends as they are."""
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{path.name}: expected a text that UTF-8 holds, but {error}") from error
    with whole(path) as file:
        file.write(content)


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
    """Reads the object in a JSON file; None if the file does not exist.

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
    """The differences of two configurations under some keys, for a message; "" if none."""
    texts = ((k, *(repr(c[k]) if k in c else "nothing" for c in (before, now))) for k in keys)
    return "; ".join(f"{k}={then} there, {here} now" for k, then, here in texts if then != here)


def as_json(content) -> str:
    """The text of a JSON file; a number that is not finite is refused."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plain(name: str, value):
    """A figure as JSON can hold it: arrays as numbers and lists, null for what is not finite.

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


RECORD = "made.json"


def make_folder(path: pathlib.Path | str) -> pathlib.Path:
    """Makes a folder, unless it is there; its absolute path.

    Raises:
      ValueError: a file is in the way.
    """
    try:
        resolved = pathlib.Path(path).resolve()
        resolved.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, TypeError) as error:
        raise ValueError(f"path={path}: expected a folder, but {error}") from error
    return resolved


class OwnedFolder:
    """A folder with a record, made.json, of whose it is and of the files that were made in it.

    Examples:
      >>> from hdistill import training
      >>> folder = training.OwnedFolder("runs/report", "a report")
      >>> folder.write("table.md", "| method | error |")
      >>> folder.read("table.md")
      '| method | error |'

    Args:
      path: made if it is not there.
      owner: whose folder it is, as "study sinusoid".

    Raises:
      ValueError: the folder is another's.
    """

    def __init__(self, path: pathlib.Path | str, owner: str):
        self.path, self.owner = make_folder(path), owner
        record = read_json(self.path / RECORD)
        if record is None:
            record = {"owner": owner, "made": [], "checksums": {}}
        check_record(self.path / RECORD, record)
        if record["owner"] != owner:
            raise ValueError(
                f"{self.path} is the folder of {record['owner']}: expected another for {owner}"
            )
        self.made: set[str] = set(record["made"])
        self._checksums: dict[str, str] = record.get("checksums", {})

    def adopt(self, *names: str) -> None:
        """Records files as made here."""
        if not self.made.issuperset(names):
            self.made |= set(names)
            self._record()

    def claim(self, *names: str) -> pathlib.Path:
        """The path of a file that is about to be written; or of several, that of the last.

        Raises:
          ValueError: there is such a file, and it was not made here; a name with a folder in it.
        """
        for name in names:
            if not _is_plain(name) or name == RECORD:
                raise ValueError(f"name={name!r}: expected the name of a file in {self.path}")
            if name not in self.made and (self.path / name).exists():
                raise ValueError(
                    f"{self.path / name} was not made by {self.owner}: expected a folder without "
                    "it (move it, or choose another folder)"
                )
        self.adopt(*names)
        return self.path / names[-1]

    def write(self, name: str, text: str) -> None:
        """Writes a file, whole or not at all, and records its checksum."""
        path = self.claim(name)
        if self._checksums.pop(name, None):
            self._record()
        write_whole(path, text)
        self._checksums[name] = checksum(path)
        self._record()

    def read(self, name: str) -> str | None:
        """Reads a file that was written; None where it was not, or not to its end.

        Raises:
          ValueError: it is not what was written.
        """
        path = self.path / name
        if name not in self._checksums:
            if path.exists() and name not in self.made:
                raise ValueError(f"{path} was not made by {self.owner}: expected no such file yet")
            return None
        if not path.exists() or self.is_damaged(name):
            raise ValueError(
                f"{path} is damaged or gone: expected what was written there; without --resume "
                "the run begins again"
            )
        return path.read_bytes().decode()

    def is_damaged(self, name: str) -> bool:
        """Tells whether a file that was written here is there, and is not what was written."""
        path, expected = self.path / name, self._checksums.get(name)
        return expected is not None and path.exists() and checksum(path) != expected

    def _record(self) -> None:
        record = {"owner": self.owner, "made": sorted(self.made), "checksums": self._checksums}
        write_whole(self.path / RECORD, as_json(record | {"checksum": digest(record)}))

    def empty(self, but: tuple[str, ...] = ()) -> None:
        """Deletes what was made here, and nothing else."""
        for name in self.made.difference(but):
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                delete_folder(path)
            else:
                path.unlink(missing_ok=True)
        if self._checksums:
            self._checksums = {}
            self._record()


def _is_plain(name: str) -> bool:
    """Tells whether it is the name of a file in the folder, and not a path that leads out of it."""
    return name not in ("", ".", "..") and pathlib.Path(name).name == name


def delete_folder(path: pathlib.Path) -> None:
    """Deletes a folder; of one with a record, what was made there, and nothing else."""
    record = read_json(path / RECORD)
    if record is None:
        return shutil.rmtree(path)
    check_record(path / RECORD, record)
    OwnedFolder(path, record["owner"]).empty()
    (path / RECORD).unlink()
    if not any(path.iterdir()):
        path.rmdir()


def check_record(path: pathlib.Path, record: dict) -> None:
    """Raises ValueError for a made.json that we did not write."""
    stated = record.pop("checksum", None)  # version 0.1 wrote no checksum
    owner, made, sums = (record.get(key) for key in ("owner", "made", "checksums"))
    if (
        not isinstance(owner, str)
        or not isinstance(made, list)
        or not all(isinstance(name, str) and _is_plain(name) for name in made)
        or not isinstance(sums, dict | None)
        or stated not in (None, digest(record))
    ):
        raise ValueError(
            f"{path} was not made by us, or is damaged: expected the owner of the folder and the "
            "files made there; delete it if the folder may be used"
        )
