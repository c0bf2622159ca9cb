"""A folder in which only what we made is ever overwritten or deleted."""

import pathlib
import shutil

from hdistill.training.files import as_json, read_json, write_whole

RECORD = "made.json"


class OwnedFolder:
    """A folder with a record, made.json, of whose it is and of the files that were made in it.

    Args:
      path: made if it is not there.
      owner: whose folder it is, as "study sinusoid".

    Raises:
      ValueError: the folder is another's.
    """

    def __init__(self, path: pathlib.Path | str, owner: str):
        self.path, self.owner = pathlib.Path(path).resolve(), owner
        self.path.mkdir(parents=True, exist_ok=True)
        record = read_json(self.path / RECORD) or {"owner": owner, "made": []}
        if record["owner"] != owner:
            raise ValueError(
                f"{self.path} is the folder of {record['owner']}: expected another for {owner}"
            )
        self.made: set[str] = set(record["made"])

    def adopt(self, *names: str) -> None:
        """Records files as made here."""
        if not self.made.issuperset(names):
            self.made |= set(names)
            record = {"owner": self.owner, "made": sorted(self.made)}
            write_whole(self.path / RECORD, as_json(record))

    def claim(self, name: str) -> pathlib.Path:
        """The path of a file that is about to be written.

        Raises:
          ValueError: there is such a file, and it was not made here.
        """
        path = self.path / name
        if name not in self.made and path.exists():
            raise ValueError(
                f"{path} was not made by {self.owner}: expected a folder without it (move it, or "
                "choose another folder)"
            )
        self.adopt(name)
        return path

    def empty(self, but: tuple[str, ...] = ()) -> None:
        """Deletes what was made here, and nothing else."""
        for name in self.made.difference(but):
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
