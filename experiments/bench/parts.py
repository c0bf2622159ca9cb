"""The time of a compiled program by part of the model: jax.profiler's times, summed."""

import collections
import pathlib
import re
import tempfile

import jax
from jax.profiler import ProfileData

# What an operation's name, as JAX hands it to XLA, has in it; the first that fits is its part.
PARTS = {
    "convolution, backward": r"transpose\(.*Conv_\d+",
    "convolution, forward": r"Conv_\d+",
    "pooling, residual sums": r"max_pool2x2|(ConvBlock|_Warp)(?!.*(BatchNorm|relu))",
    "normalisation": r"BatchNorm",
    "ReLU": r"relu",
    "linear layer, loss": r"Dense|dot_general|softmax|logsumexp",
}
LOOP = re.compile(r"^(while|call|conditional)[.\d]*$")


def seconds_by_part(program, arguments, calls: int = 5) -> dict[str, float]:
    """Seconds of a call, over all threads, by part; what fits none is "other"."""
    names = dict(re.findall(r'%?([\w.\-]+) = .*?op_name="([^"]*)"', program.as_text()))
    jax.block_until_ready(program(*arguments))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                jax.block_until_ready(program(*arguments))
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        events = _events(ProfileData.from_file(str(path)))
    total: collections.defaultdict[str, float] = collections.defaultdict(float)
    for name, seconds in events:
        total[_part(names.get(name, ""))] += seconds / calls
    return dict(total)


def _events(profile):
    """(name in the program, seconds) of each operation; a loop is its body's operations."""
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                if "hlo_op" in dict(event.stats) and not LOOP.match(event.name):
                    yield event.name, event.duration_ns / 1e9


def _part(name: str) -> str:
    return next((part for part, sign in PARTS.items() if re.search(sign, name)), "other")
