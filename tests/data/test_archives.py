"""CIFAR and TinyImageNet from their archives: small ones, served on 127.0.0.1 or put by hand."""

import functools
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from hdistill.data import images
from hdistill.data.archives import Archive
from hdistill.data.datasets import DATASETS

pytestmark = [
    # TensorFlow Datasets and what it stands on are not ours to mend.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
RNG = np.random.default_rng(0)


def cifar100_rows(per_class: int):
    """Rows of the binary version, in random order: coarse label, fine label, image."""
    fine = RNG.permutation(np.repeat(np.arange(100, dtype=np.uint8), per_class))
    pixels = RNG.integers(0, 256, (len(fine), 3072), dtype=np.uint8)
    return np.concatenate([fine[:, None] // 5, fine[:, None], pixels], axis=1)


def write_cifar100(path, per_class=2):
    """A small cifar-100-binary.tar.gz; returns the training rows."""
    rows = cifar100_rows(per_class)
    files = {
        "train.bin": rows.tobytes(),
        "test.bin": cifar100_rows(1).tobytes(),
        "fine_label_names.txt": "\n".join(f"fine{i}" for i in range(100)).encode() + b"\n",
        "coarse_label_names.txt": "\n".join(f"coarse{i}" for i in range(20)).encode() + b"\n",
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, body in files.items():
            member = tarfile.TarInfo("cifar-100-binary/" + name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return rows


def publish(monkeypatch, name, archive):
    """Makes this the published archive of a data set."""
    monkeypatch.setitem(DATASETS, name, DATASETS[name]._replace(archive=archive))


def describe(path, url):
    """The archive that this file is, at that address."""
    body = path.read_bytes()
    return Archive(url, len(body), hashlib.sha256(body).hexdigest())


@pytest.fixture
def server(tmp_path):
    """(folder, address) of a web server on 127.0.0.1."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def check_pool(pool, rows):
    """The pool has these rows, class by class, in their own order."""
    order = np.argsort(rows[:, 1], kind="stable")
    expected = rows[order, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(pool.images, expected)
    np.testing.assert_array_equal(pool.labels, rows[order, 1])
    assert pool.names == tuple(f"fine{i}" for i in range(100))


def test_cifar100_is_downloaded_prepared_and_decoded_once(tmp_path, server, monkeypatch):
    folder, address = server
    served = folder / "cifar-100-binary.tar.gz"
    rows = write_cifar100(served)
    publish(monkeypatch, "cifar100", describe(served, f"{address}/{served.name}"))
    data = tmp_path / "data"
    check_pool(images.load("cifar100", data), rows)
    assert "tensorflow" not in sys.modules
    served.unlink()
    # The pool is used as it is; without it the prepared files are.
    check_pool(images.load("cifar100", data), rows)
    (data / "cifar100.npz").unlink()
    check_pool(images.load("cifar100", data), rows)
    # They are a data set like any other, for TensorFlow Datasets by itself.
    code = (
        "import sys, tensorflow_datasets as tfds;"
        "print(len(tfds.data_source('cifar100', data_dir=sys.argv[1], split='test')))"
    )
    plain = subprocess.run([sys.executable, "-c", code, data], capture_output=True)
    assert int(plain.stdout) == 100, plain.stderr


def test_an_archive_put_by_hand_is_used_and_checked(tmp_path, monkeypatch):
    manual = tmp_path / "manual"
    manual.mkdir()
    path = manual / "cifar-100-binary.tar.gz"
    rows = write_cifar100(path, per_class=1)
    right = describe(path, "http://127.0.0.1:9/cifar-100-binary.tar.gz")
    publish(monkeypatch, "cifar100", right._replace(sha256="0" * 64))
    with pytest.raises(ValueError, match=rf"manual/cifar-100.*sha256 {right.sha256}.*{'0' * 64}"):
        images.load("cifar100", tmp_path)
    publish(monkeypatch, "cifar100", right._replace(size=right.size + 1))
    with pytest.raises(ValueError, match=rf"{right.size} bytes; expected.*{right.size + 1} bytes"):
        images.load("cifar100", tmp_path)
    publish(monkeypatch, "cifar100", right)
    check_pool(images.load("cifar100", tmp_path), rows)


def test_a_download_with_another_checksum_is_refused(tmp_path, server, monkeypatch):
    folder, address = server
    served = folder / "cifar-100-binary.tar.gz"
    write_cifar100(served, per_class=1)
    wrong = describe(served, f"{address}/{served.name}")._replace(sha256="0" * 64)
    publish(monkeypatch, "cifar100", wrong)
    with pytest.raises(ValueError, match=rf"sha256.*expected.*{wrong.size} bytes.*{'0' * 64}"):
        images.load("cifar100", tmp_path / "data")
    assert not (tmp_path / "data" / "cifar100.npz").exists()


@pytest.mark.parametrize("sent", [0, 700])
def test_a_server_that_fails_or_breaks_off_is_reported_at_once(sent, tmp_path, monkeypatch):
    class Failing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            """500, or fewer bytes than promised."""
            self.send_response(200 if sent else 500)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * sent)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/cifar-100-binary.tar.gz"
        publish(monkeypatch, "cifar100", Archive(url, 1000, "0" * 64))
        with pytest.raises((FileNotFoundError, ValueError), match=r"500|700 bytes; expected"):
            images.load("cifar100", tmp_path)
        server.shutdown()
        thread.join()
    assert not (tmp_path / "manual" / "cifar-100-binary.tar.gz").exists()


def test_nothing_there_and_no_network_says_what_is_missing_at_once(tmp_path, monkeypatch):
    gone = DATASETS["cifar100"].archive._replace(url="http://127.0.0.1:9/cifar-100-binary.tar.gz")
    publish(monkeypatch, "cifar100", gone)
    with pytest.raises(FileNotFoundError) as error:
        images.load("cifar100", tmp_path)
    for words in ("cifar100/3.0.2", "manual/cifar-100-binary.tar.gz", "168513733", gone.sha256):
        assert words in str(error.value)


def test_tinyimagenet_at_both_sizes(tmp_path, monkeypatch):
    ids = [f"n{i:08d}" for i in RNG.permutation(1000)[:200]]
    path = tmp_path / "manual" / "tiny-imagenet-200.zip"
    path.parent.mkdir()
    colours = {}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny-imagenet-200/wnids.txt", "\n".join(ids) + "\n")
        archive.writestr("tiny-imagenet-200/val/images/val_0.JPEG", b"not for the pool")
        for name in ids:
            colours[name] = RNG.integers(0, 256, 3)
            body = io.BytesIO()
            square = np.broadcast_to(colours[name], (64, 64, 3)).astype(np.uint8)
            Image.fromarray(square).save(body, "JPEG", quality=95)
            archive.writestr(
                f"tiny-imagenet-200/train/{name}/images/{name}_0.JPEG", body.getvalue()
            )
    published = describe(path, "http://127.0.0.1:9/tiny-imagenet-200.zip")
    publish(monkeypatch, "tinyimagenet", published)
    large, small = (images.load(f"tinyimagenet{size}", tmp_path) for size in (64, 32))
    assert large.images.shape == (200, 64, 64, 3) and small.images.shape == (200, 32, 32, 3)
    assert large.names == small.names == tuple(sorted(ids))
    for pool in (large, small):
        np.testing.assert_array_equal(pool.labels, np.arange(200))
        expected = np.stack([colours[name] for name in pool.names])
        np.testing.assert_allclose(pool.images.mean((1, 2)), expected, atol=3)


def test_omniglot_is_made_small(tmp_path, monkeypatch):
    letters = [f"Alphabet_{i % 30:02d}/character{i // 30 + 1:02d}" for i in RNG.permutation(964)]
    path = tmp_path / "manual" / "images_background.zip"
    path.parent.mkdir()
    rows = {}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images_background/", "")
        for letter in letters:
            rows[letter] = int(RNG.integers(1, 4))  # of five blocks of 21 pixels, the black one
            drawing = np.full((105, 105), 255, np.uint8)
            drawing[21 * rows[letter] : 21 * rows[letter] + 21] = 0
            for i in range(2):
                body = io.BytesIO()
                Image.fromarray(drawing).convert("1").save(body, "PNG")
                name = f"images_background/{letter}/{letter[-2:]}_{i}.png"
                archive.writestr(name, body.getvalue())
    published = describe(path, "http://127.0.0.1:9/images_background.zip")
    publish(monkeypatch, "omniglot-background", published)
    pool = images.load("omniglot-background", tmp_path)
    assert pool.images.shape == (2 * 964, 28, 28, 3) and pool.names == tuple(sorted(letters))
    middle = 28 / 5 * (np.array([rows[name] for name in pool.names]) + 0.5)
    found = pool.images.mean((2, 3)).argmin(1)[::2]  # the darkest line of each letter
    assert (np.abs(found + 0.5 - middle) < 2.5).all()


def test_published_archives_are_those_of_tensorflow_datasets():
    from tensorflow_datasets.core.download import checksums

    known = checksums.get_all_url_infos()
    for name in ("cifar10", "cifar100", "omniglot-background", "omniglot-evaluation"):
        archive = DATASETS[name].archive
        info = known[archive.url]
        assert (info.size, info.checksum) == (archive.size, archive.sha256)


def test_names_of_pools():
    with pytest.raises(ValueError, match=r"name='cifar'.*cifar100"):
        images.load("cifar", ".")
    assert DATASETS["tinyimagenet"].archive.file == "tiny-imagenet-200.zip"
