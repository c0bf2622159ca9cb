"""What a run leaves on disk: config.json, metrics.jsonl, summary.json and checkpoints/."""

import importlib.metadata
import json
import math
import pathlib
import platform
import resource
import shutil
import subprocess

import jax
import orbax.checkpoint as ocp


class RunFolder:
    """One run's folder. A run that starts afresh empties it; one that resumes goes on from it."""

    def __init__(self, path: pathlib.Path, config: dict, resume: bool):
        self.path = pathlib.Path(path).resolve()
        config = json.loads(json.dumps(config))  # lists for tuples, as it is read back
        if config.get("seed", 0) < 0:
            raise ValueError(f"seed={config['seed']}: expected a whole number >= 0")
        if resume and self.config not in (None, config):
            raise ValueError(
                f"--resume: {self.path / 'config.json'} is of another run: {self.config}"
            )
        if not resume and self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        _write(self.path / "config.json", config)
        self._manager = ocp.CheckpointManager(
            self.path / "checkpoints", options=ocp.CheckpointManagerOptions(max_to_keep=1)
        )

    @property
    def config(self) -> dict | None:
        """The configuration of the run that is there, or None."""
        return read_json(self.path / "config.json")

    @property
    def summary(self) -> dict | None:
        """The summary of a run that ended, or None."""
        return read_json(self.path / "summary.json")

    def save(self, count: int, state) -> None:
        """Checkpoints the learner's state after `count` inner optimisations; on disk on return."""
        self._manager.save(count, args=ocp.args.StandardSave(_arrays(state)))
        self._manager.wait_until_finished()

    def restore(self, state):
        """(count, state) of the last checkpoint, or (0, `state`); cuts the metrics there."""
        count = self._manager.latest_step() or 0
        kept = [row for row in self.metrics() if row["inner_optimisation"] <= count]
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        write_whole(self.path / "metrics.jsonl", lines)
        if count == 0:
            return 0, state
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, _arrays(state))
        saved = self._manager.restore(count, args=ocp.args.StandardRestore(template))
        return count, _like(state, saved)

    def log(self, row: dict) -> None:
        """Appends a line to metrics.jsonl, flushed; figures that are not finite become null."""
        row = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
        }
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row, default=float, allow_nan=False) + "\n")

    def metrics(self) -> list[dict]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.path)

    def finish(self, **figures) -> dict:
        """Writes summary.json: the figures and what produced them."""
        summary = {**figures, **provenance()}
        _write(self.path / "summary.json", summary)
        return summary

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the checkpoint writer."""
        self._manager.close()


def provenance() -> dict:
    """Device, packages, commit, and the peak memory of this process so far (bytes)."""
    return {
        "device": f"{jax.devices()[0].device_kind} x{jax.device_count()}, {platform.machine()}",
        "python": platform.python_version(),
        "packages": {
            name: importlib.metadata.version(name) for name in ("hdistill", "jax", "flax", "optax")
        },
        "commit": _commit(),
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def read_json(path: pathlib.Path) -> dict | None:
    """What a JSON file holds, or None where there is none."""
    return json.loads(path.read_text()) if path.exists() else None


def read_metrics(path: pathlib.Path) -> list[dict]:
    """The lines of a run's metrics.jsonl that are whole (a kill may cut the last)."""
    file = path / "metrics.jsonl"
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _arrays(state) -> dict:
    """The state's leaves as a dict of arrays, keys as their data: what is static stays behind."""
    leaves = enumerate(jax.tree.leaves(state))
    return {f"{i:04}": jax.random.key_data(x) if _is_key(x) else x for i, x in leaves}


def _like(state, arrays: dict):
    """The state whose `_arrays` these are."""
    leaves, structure = jax.tree.flatten(state)
    saved = [arrays[name] for name in sorted(arrays)]
    return jax.tree.unflatten(
        structure,
        [jax.random.wrap_key_data(x) if _is_key(old) else x for x, old in zip(saved, leaves)],
    )


def _commit() -> str | None:
    """The git commit of the code that runs, marked where it has uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    here = pathlib.Path(__file__).parent
    try:
        return subprocess.run(
            command, cwd=here, capture_output=True, check=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _write(path: pathlib.Path, content: dict) -> None:
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
