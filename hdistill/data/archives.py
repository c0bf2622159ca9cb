"""The published archives that the image sets come in: downloaded and checked."""

import hashlib
import http.client
import pathlib
import urllib.request
from typing import NamedTuple

from tqdm import tqdm


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


def check_file(path: pathlib.Path, archive: Archive) -> None:
    """Raises ValueError unless the file is that archive, bit for bit."""
    size = path.stat().st_size
    if size != archive.size:
        raise ValueError(f"{path}: {size} bytes; expected {archive}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != archive.sha256:
        raise ValueError(f"{path}: sha256 {digest}; expected {archive}")


def download(archive: Archive, path: pathlib.Path, seconds: float = 10.0) -> None:
    """Downloads an archive; the file is there whole and checked, or not at all.

    Args:
      archive: what is to be downloaded.
      path: where it goes.
      seconds: to wait for an answer.

    Raises:
      FileNotFoundError: there is no answer, or the download breaks off.
      ValueError: what came is another file than expected.
    """
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=archive.size, unit="B", unit_scale=True, desc=archive.file)
    try:
        answer = urllib.request.urlopen(archive.url, timeout=seconds)
        with answer, bar, partial.open("wb") as file:
            while part := answer.read(1 << 20):
                file.write(part)
                bar.update(len(part))
    except (OSError, http.client.HTTPException) as error:
        raise FileNotFoundError(f"the download of {archive} failed: {error}") from error
    check_file(partial, archive)
    partial.replace(path)
