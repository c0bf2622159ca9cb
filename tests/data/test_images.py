"""Image pools, tasks drawn from them, and augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hdistill.data.augment import crop_and_flip, draw_batch, normalize
from hdistill.data.datasets import DATASETS
from hdistill.data.images import load
from hdistill.data.pool import Examples, Pool, sample_shots, sample_task


def coded_images(classes=12, per_class=20):
    """uint8 [classes, per class, 2, 2, 3] whose pixels say which class and which image they are."""
    images = np.zeros((classes, per_class, 2, 2, 3), np.uint8)
    images[..., 0] = np.arange(classes)[:, None, None, None]
    images[..., 1] = np.arange(per_class)[None, :, None, None]
    return images


def test_splits_are_disjoint_and_whole():
    for name, sizes in {"cifar100": (50, 20, 30), "tinyimagenet": (100, 40, 60)}.items():
        split = DATASETS[name].split
        assert tuple(len(part) for part in split) == sizes
        assert sorted([c for part in split for c in part]) == list(range(sum(sizes)))


def test_task_halves_share_classes_and_no_image():
    task = sample_task(jax.random.key(0), coded_images(), ways=5)
    halves = [{tuple(i) for i in np.asarray(half.images[:, 0, 0, :2])} for half in task]
    assert len(halves[0]) == len(halves[1]) == 50 and not halves[0] & halves[1]
    assert len({c for c, _ in halves[0] | halves[1]}) == 5
    classes = {}
    for half in task:
        assert half.images.dtype == jnp.uint8 and half.labels.shape == (50,)
        for label, image in zip(half.labels.tolist(), half.images[:, 0, 0, 0].tolist()):
            assert classes.setdefault(label, image) == image  # one class for each label
    assert sorted(classes) == list(range(5))
    counts = np.bincount(np.concatenate([half.labels for half in task]), minlength=5)
    np.testing.assert_array_equal(counts, 20)


def test_shots_are_as_many_of_each_class_and_the_others_are_tested_on():
    task = jax.jit(lambda key: sample_shots(key, coded_images(), ways=5, shots=3))(
        jax.random.key(0)
    )
    parts = [{tuple(i) for i in np.asarray(part.images[:, 0, 0, :2])} for part in task]
    assert len(parts[0]) == 15 and len(parts[1]) == 85 and not parts[0] & parts[1]
    np.testing.assert_array_equal(task.inner.labels, np.repeat(np.arange(5), 3))
    for part in task:
        pairs = {(int(y), int(x)) for y, x in zip(part.labels, part.images[:, 0, 0, 0])}
        assert len(pairs) == 5 == len({x for _, x in pairs})
    other = sample_shots(jax.random.key(1), coded_images(), ways=5, shots=3)
    assert {tuple(i) for i in np.asarray(other.inner.images[:, 0, 0, :2])} != parts[0]
    with pytest.raises(ValueError, match=r"shots=20: expected 1\.\.19"):
        sample_shots(jax.random.key(0), coded_images(), ways=5, shots=20)


def test_tasks_draw_every_class_alike():
    keys = jax.random.split(jax.random.key(1), 600)
    images = jnp.asarray(coded_images(12, 4))
    sample = jax.jit(jax.vmap(lambda key: sample_task(key, images, ways=3).inner.images))
    counts = np.bincount(
        np.unique(
            np.asarray(sample(keys))[:, :, 0, 0, 0].astype(int) + 12 * np.arange(600)[:, None]
        )
        % 12
    )
    assert counts.sum() > 600 * 2.5  # of the 3 classes nearly all show in half of the images
    np.testing.assert_allclose(counts / counts.sum(), 1 / 12, atol=0.02)


def test_corruption_replaces_labels_of_the_training_half_alone():
    images = coded_images(10, 100)
    clean = sample_task(jax.random.key(2), images, ways=10)
    noisy = sample_task(jax.random.key(2), images, ways=10, corruption=0.4)
    np.testing.assert_array_equal(clean.outer.labels, noisy.outer.labels)
    np.testing.assert_array_equal(clean.inner.images, noisy.inner.images)
    wrong = (clean.inner.labels != noisy.inner.labels).mean()
    np.testing.assert_allclose(wrong, 0.4 * 0.9, atol=4 * np.sqrt(0.36 * 0.64 / 500))
    moved = np.asarray(noisy.inner.labels)[np.asarray(clean.inner.labels != noisy.inner.labels)]
    assert len(set(moved.tolist())) == 10


@pytest.mark.parametrize(
    "arguments, words",
    [({"ways": 11}, "ways=11: expected 1..10"), ({"ways": 2, "corruption": 2.0}, "corruption=2.0")],
)
def test_tasks_that_can_t_be_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        sample_task(jax.random.key(0), coded_images(10, 2), **arguments)


def test_crop_and_flip_is_a_shift_of_the_padded_image():
    rng = np.random.default_rng(0)
    images = rng.integers(1, 255, (40, 8, 6, 3)).astype(np.uint8)
    cropped = np.asarray(jax.jit(crop_and_flip)(jax.random.key(0), images))
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    crops = set()
    for i in range(40):
        matches = [
            (dy, dx, flip)
            for dy in range(9)
            for dx in range(9)
            for flip in (False, True)
            if np.array_equal(
                padded[i, dy : dy + 8, dx : dx + 6][:, :: -1 if flip else 1], cropped[i]
            )
        ]
        assert matches
        crops.add(matches[0])
    assert {flip for *_, flip in crops} == {False, True} and len(crops) > 30


def test_draw_batch():
    task = sample_task(jax.random.key(0), coded_images(), ways=5)
    images, labels = draw_batch(jax.random.key(1), task.inner, 32, pad=None)
    assert images.dtype == jnp.float32 and images.shape == (32, 2, 2, 3)
    known = {
        (*image.tolist(), label)
        for image, label in zip(
            np.asarray(normalize(task.inner.images))[:, 0, 0], task.inner.labels.tolist()
        )
    }
    assert {(*x.tolist(), y) for x, y in zip(np.asarray(images)[:, 0, 0], labels.tolist())} <= known
    np.testing.assert_allclose(normalize(np.array([0, 255], np.uint8)), [-1, 1])


def test_pool_round_trip_and_bad_pools(tmp_path):
    images = coded_images(3, 4).reshape(12, 2, 2, 3)
    pool = Pool(images, np.repeat(np.arange(3), 4), ("a", "b", "c"))
    pool.save(tmp_path / "pool.npz")
    loaded = Pool.load(tmp_path / "pool.npz")
    np.testing.assert_array_equal(loaded.images, images)
    assert loaded.names == ("a", "b", "c") and loaded.by_class([2, 0]).shape == (2, 4, 2, 2, 3)
    assert (loaded.by_class([2, 0])[0, ..., 0] == 2).all()
    with pytest.raises(ValueError, match=r"images.*float64.*uint8"):
        Pool(images.astype(float), pool.labels, pool.names)
    with pytest.raises(ValueError, match=r"labels.*\(11,\).*12"):
        Pool(images, pool.labels[:11], pool.names)
    with pytest.raises(ValueError, match=r"labels.*2.*0\.\.1"):
        Pool(images, pool.labels, ("a", "b"))
    with pytest.raises(ValueError, match=r"classes=\[0, 1\].*\[3, 4\]"):
        Pool(images[1:], pool.labels[1:], pool.names).by_class([0, 1])


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_a_file_that_is_no_pool_is_named(tmp_path, content):
    path = tmp_path / "cifar100.npz"
    path.write_bytes(content) if content is not None else np.savez(path, images=np.zeros(3))
    with pytest.raises(ValueError, match=r"cifar100\.npz.*expected a pool, an \.npz with images"):
        Pool.load(path)


def test_labels_are_checked_before_they_are_cast(tmp_path):
    path, pixels = tmp_path / "pool.npz", np.zeros((2, 2, 2, 3), np.uint8)
    for labels, words in (([0.0, 1.7], "labels: dtype float64"), ([0, 2**32 + 1], "4294967297")):
        np.savez(path, images=pixels, labels=np.array(labels), names=np.array(["a", "b"]))
        with pytest.raises(ValueError, match=words):
            Pool.load(path)
    np.save(path.with_suffix(".npy"), pixels)
    path.with_suffix(".npy").rename(path)
    with pytest.raises(ValueError, match=r"expected a pool, an \.npz"):
        Pool.load(path)


@pytest.mark.parametrize("classes, size", [(1, 32), (20, 32), (10, 16)])
def test_a_pool_of_another_data_set_is_refused(classes, size, tmp_path):
    labels = np.arange(classes, dtype=np.int32)
    pixels = np.zeros((classes, size, size, 3), np.uint8)
    Pool(pixels, labels, tuple(map(str, labels))).save(tmp_path / "cifar10-train.npz")
    with pytest.raises(ValueError, match=rf"cifar10-train.npz: {classes} classes.*expected 10 of"):
        load("cifar10-train", tmp_path)


def test_same_key_same_task():
    draws = [
        sample_task(jax.random.key(5), coded_images(), ways=3, corruption=0.4) for _ in range(2)
    ]
    jax.tree.map(np.testing.assert_array_equal, *draws)
    assert isinstance(draws[0].inner, Examples)
