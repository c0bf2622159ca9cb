"""TensorFlow Datasets builders that prepare and read images without TensorFlow.

The stock CIFAR builders read their files through TensorFlow; these read them with the standard
library and leave the same prepared data set (name, version, features, keys, order) in array_record
files, which plain `tfds.data_source` opens. TinyImageNet is not in TensorFlow Datasets; Omniglot
is, but larger.
"""

import io
import pathlib
import tarfile
import zipfile

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.image_classification import cifar

from hdistill.data.archives import Archive, check_file, download


def _png(pixels: np.ndarray) -> io.BytesIO:
    """An image, encoded: TensorFlow Datasets would call TensorFlow to encode an array."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    encoded.seek(0)
    return encoded


with tfds.core.registered.skip_registration():

    class _FromArchive(tfds.core.GeneratorBasedBuilder):
        """The part that all share: the archive, in data_dir/manual or downloaded to there."""

        archive: Archive

        @property
        def url_infos(self):
            """The name and size by which the download manager knows a file put by hand."""
            archive = self.archive
            info = tfds.download.checksums.UrlInfo(archive.size, archive.sha256, archive.file)
            return {archive.url: info}

        def _labelled_images(self, size: int, encoding: str, classes: int, home: str):
            """The description of square images with a label each."""
            features = {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(size, size, 3), encoding_format=encoding),
                "label": tfds.features.ClassLabel(num_classes=classes),
            }
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                homepage=home,
            )

        def prepare(self, root: pathlib.Path, archive: Archive) -> None:
            """Prepares the data set under root, unless it is prepared already.

            Raises:
              FileNotFoundError: no archive in root/manual, and none to be downloaded.
              ValueError: an archive that is another file than expected.
            """
            if self.data_path.exists():
                return
            self.archive, file = archive, root / "manual" / archive.file
            if file.exists():
                check_file(file, archive)
            else:
                try:
                    download(archive, file)
                except FileNotFoundError as error:
                    missing = f"no prepared files in {self.data_path}, no {file}"
                    raise FileNotFoundError(f"{missing}, and {error}") from error
            config = tfds.download.DownloadConfig(manual_dir=file.parent, try_download_gcs=False)
            self.download_and_prepare(
                download_dir=root / "downloads",
                download_config=config,
                file_format="array_record",
            )

    class _Cifar(_FromArchive):
        """Reads CIFAR's binary version: for each example its labels, then 3072 bytes of image."""

        def _split_generators(self, dl_manager):
            path, info = dl_manager.download(self.archive.url), self._cifar_info
            with tarfile.open(path) as tar:
                for key, name in zip(info.label_keys, info.label_files):
                    names = tar.extractfile(info.prefix + name).read().decode().split("\n")
                    self.info.features[key].names = [name for name in names if name]
            parts = {"train": ("train_", info.train_files), "test": ("test_", info.test_files)}
            return {part: self._generate_examples(path, *of) for part, of in parts.items()}

        def _generate_examples(self, path, id_prefix, files):
            keys, index = self._cifar_info.label_keys, 0
            with tarfile.open(path) as tar:
                for name in files:
                    body = tar.extractfile(self._cifar_info.prefix + name).read()
                    rows = np.frombuffer(body, np.uint8).reshape(-1, len(keys) + 3072)
                    for row in rows:
                        image = row[len(keys) :].reshape(3, 32, 32).transpose(1, 2, 0)
                        labels = dict(zip(keys, row.tolist()))
                        yield (
                            index,
                            labels | {"id": f"{id_prefix}{index:05d}", "image": _png(image)},
                        )
                        index += 1

    class Cifar10(_Cifar, cifar.Cifar10):
        """CIFAR-10, 50,000 and 10,000 images of 32x32."""

    class Cifar100(_Cifar, cifar.Cifar100):
        """CIFAR-100, 50,000 and 10,000 images of 32x32."""

    class TinyImagenet(_FromArchive, tfds.core.GeneratorBasedBuilder):
        """TinyImageNet's training set: 200 classes of 500 images of 64x64, as JPEG.

        The files are kept as they are. Labels are the positions of the sorted WordNet ids.
        """

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return self._labelled_images(64, "jpeg", 200, "http://cs231n.stanford.edu/")

        def _split_generators(self, dl_manager):
            path = dl_manager.download(self.archive.url)
            with zipfile.ZipFile(path) as archive:
                text = archive.read("tiny-imagenet-200/wnids.txt").decode()
            self.info.features["label"].names = sorted(text.split())
            return {"train": self._generate_examples(path)}

        def _generate_examples(self, path):
            with zipfile.ZipFile(path) as archive:
                for name in sorted(archive.namelist()):
                    if name.startswith("tiny-imagenet-200/train/") and name.endswith(".JPEG"):
                        key = pathlib.PurePosixPath(name).stem
                        image = io.BytesIO(archive.read(name))
                        yield key, {"id": key, "image": image, "label": key.split("_")[0]}

    class _Omniglot(_FromArchive, tfds.core.GeneratorBasedBuilder):
        """Drawings of letters, 20 of each, from 105x105 to 28x28; ink is black.

        TensorFlow Datasets' own has both archives, at 105x105.
        """

        VERSION = tfds.core.Version("1.0.0")
        LETTERS: int

        def _info(self):
            home = "https://github.com/brendenlake/omniglot/"
            return self._labelled_images(28, "png", self.LETTERS, home)

        def _split_generators(self, dl_manager):
            path = dl_manager.download(self.archive.url)
            with zipfile.ZipFile(path) as archive:
                drawings = sorted(n for n in archive.namelist() if n.endswith(".png"))
            letters = {name: "/".join(name.split("/")[1:3]) for name in drawings}
            self.info.features["label"].names = sorted(set(letters.values()))
            return {"train": self._generate_examples(path, letters)}

        def _generate_examples(self, path, letters):
            with zipfile.ZipFile(path) as archive:
                for name, letter in letters.items():
                    with Image.open(io.BytesIO(archive.read(name))) as drawing:
                        small = drawing.convert("L").resize((28, 28), Image.Resampling.LANCZOS)
                    key = pathlib.PurePosixPath(name).stem
                    image = _png(np.asarray(small.convert("RGB")))
                    yield f"{letter}/{key}", {"id": key, "image": image, "label": letter}

    class OmniglotBackground(_Omniglot):
        """964 letters of 30 alphabets."""

        LETTERS = 964

    class OmniglotEvaluation(_Omniglot):
        """659 letters of 20 other alphabets."""

        LETTERS = 659
