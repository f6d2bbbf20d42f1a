"""How train images are varied: a function of (seed, epoch, row); not at all where nothing is asked."""

from pathlib import Path

import numpy as np
import pytest

from compiler.tasks.image_classification import Augmentation, ImageClassification
from runtimes.protocol import Batch
from runtimes.rows.batches import collate
from runtimes.rows.feature_writer import write_features
from runtimes.rows.features import Features, Portion
from runtimes.rows.images import PIXELS
from runtimes.tasks import image_classification as module

COUNT = 64
ALL = Augmentation(flip=True, crop=2, brightness=0.2, contrast=0.3)


def task(augmentation: Augmentation = ALL) -> ImageClassification:
    return ImageClassification(labels=("a", "b"), shape=(3, 6, 8), augmentation=augmentation)


@pytest.fixture
def rows(tmp_path: Path) -> Features:
    pixels = np.random.default_rng(0).integers(1, 256, (COUNT, 3, 6, 8)).astype(np.uint8)
    portion = Portion(ragged={}, fixed={PIXELS: pixels, "targets": np.arange(COUNT) % 2}, truncated=0)
    write_features([portion], module.columns(task(), 0), tmp_path, max_length=1, pad_token_id=0)
    return Features(tmp_path)


def varied(rows: Features, places: np.ndarray, augmentation: Augmentation, *, seed: int = 0, epoch: int = 0) -> Batch:
    def vary(batch: Batch) -> Batch:
        return module.vary(task(augmentation), batch, seed=seed, epoch=epoch)

    return collate(rows, places, vary=vary)


def test_pixels_are_stored_as_bytes_and_batched_as_fractions(rows: Features) -> None:
    assert isinstance(rows.arrays[PIXELS], np.memmap)
    assert rows.arrays[PIXELS].dtype == np.dtype(np.uint8)
    assert rows.arrays[PIXELS].shape == (COUNT, 3, 6, 8)
    batch = collate(rows, np.array([5, 3]), fill_to=4)
    assert batch.inputs[PIXELS].dtype == np.dtype(np.float32)
    assert batch.inputs[PIXELS].shape == (4, 3, 6, 8)
    assert np.array_equal(batch.inputs[PIXELS][:2], rows.arrays[PIXELS][[5, 3]])
    assert batch.targets.tolist() == [1, 1, 1, 1]
    assert batch.weights.tolist() == [1, 1, 0, 0]


def test_nothing_is_varied_by_default(rows: Features) -> None:
    places = np.arange(COUNT)
    assert np.array_equal(varied(rows, places, Augmentation()).inputs[PIXELS], rows.arrays[PIXELS])


def test_a_row_is_varied_alike_in_any_batch(rows: Features) -> None:
    whole = varied(rows, np.arange(COUNT), ALL).inputs[PIXELS]
    places = np.array([40, 7, 9])
    assert np.array_equal(varied(rows, places, ALL).inputs[PIXELS], whole[places])


@pytest.mark.parametrize("changes", [{"epoch": 1}, {"seed": 1}])
def test_another_epoch_or_seed_varies_otherwise(rows: Features, changes: dict[str, int]) -> None:
    places = np.arange(COUNT)
    one, other = varied(rows, places, ALL).inputs[PIXELS], varied(rows, places, ALL, **changes).inputs[PIXELS]
    assert (one != other).any(axis=(1, 2, 3)).mean() > 0.9


def test_about_half_of_the_images_are_mirrored(rows: Features) -> None:
    found, stored = varied(rows, np.arange(COUNT), Augmentation(flip=True)).inputs[PIXELS], rows.arrays[PIXELS]
    mirrored = np.array([np.array_equal(one, other[..., ::-1]) for one, other in zip(found, stored, strict=True)])
    same = np.array([np.array_equal(one, other) for one, other in zip(found, stored, strict=True)])
    assert (mirrored ^ same).all()
    assert 0.3 < mirrored.mean() < 0.7


def test_images_are_moved_each_way_and_what_comes_in_is_black(rows: Features) -> None:
    found, stored = varied(rows, np.arange(COUNT), Augmentation(crop=2)).inputs[PIXELS], rows.arrays[PIXELS]
    seen = set()
    for one, whole in zip(found, stored, strict=True):
        padded = np.pad(whole, [(0, 0), (2, 2), (2, 2)])
        [place] = [
            (down, right)
            for down in range(5)
            for right in range(5)
            if np.array_equal(one, padded[:, down : down + 6, right : right + 8])
        ]
        seen.add(place)
    assert {down for down, _ in seen} == {right for _, right in seen} == set(range(5))


def test_colours_stay_within_their_shares() -> None:
    grey = np.full((1, 3, 2, 2), 100, np.uint8)
    assert (module.coloured(grey, np.array([1.2]), np.array([1.0])) == 120).all()
    assert (module.coloured(grey, np.array([1.0]), np.array([1.3])) == 100).all()
    checks = np.array([[[[50, 150]]]], np.uint8)
    assert module.coloured(checks, np.array([1.0]), np.array([0.5])).ravel().tolist() == [75, 125]
    assert module.coloured(checks, np.array([2.0]), np.array([2.0])).ravel().tolist() == [0, 255]
