"""The README's Python runs as it stands."""

import pathlib
import re
import subprocess
import sys

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_python_blocks_run_in_order(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 3
    code = "\n".join([*blocks, "assert abs(g.total).min() > 0 and (info.outer_loss > 0).all()"])
    code += "\nassert training.read_run('runs/mine').summary['test_loss'] == float(errors.mean())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
