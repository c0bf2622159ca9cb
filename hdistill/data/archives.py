"""The published archives that the image sets come in, and what tells a good copy."""

import hashlib
import pathlib
import urllib.error
import urllib.request
from typing import NamedTuple


class Archive(NamedTuple):
    """A file to be downloaded.

    Attributes:
      url: where from.
      size: bytes.
      sha256: of its content, in hexadecimal.
    """

    url: str
    size: int
    sha256: str

    @property
    def file(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[1]

    def __str__(self):
        return f"{self.url} ({self.size} bytes, sha256 {self.sha256})"


# Sizes and sums of the two CIFARs as TensorFlow Datasets 4.9.10 has them.
ARCHIVES = {
    "cifar10": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        170052171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    "cifar100": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        168513733,
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ),
    "tiny_imagenet": Archive(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        248100043,
        "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    ),
}


def check_file(path: pathlib.Path, archive: Archive) -> None:
    """Raises ValueError unless the file is that archive, bit for bit."""
    size = path.stat().st_size
    if size != archive.size:
        raise ValueError(f"{path}: {size} bytes; expected {archive}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        raise ValueError(f"{path}: sha256 {found}; expected {archive}")


def check_reachable(archive: Archive, missing: str, seconds: float = 10.0) -> None:
    """Raises FileNotFoundError, soon, where the archive can't be downloaded from here.

    A download that finds no network tries for minutes before it says so.

    Args:
      archive: what is to be downloaded.
      missing: what to say was looked for in vain.
      seconds: to wait for an answer.
    """
    try:
        request = urllib.request.Request(archive.url, method="HEAD")
        with urllib.request.urlopen(request, timeout=seconds):
            pass
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError) and error.code in (405, 501):
            return  # it answers, though not this question
        raise FileNotFoundError(
            f"{missing}, and the download does not answer ({error}); expected {archive}"
        ) from error
