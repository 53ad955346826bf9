"""What the report shows of a model beside its figures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from attndistill.data.store import ArrayImages
from attndistill.data.views import ViewRecipe
from attndistill.evaluations.classifiers import knn
from attndistill.evaluations.judged import Judged
from attndistill.exhibits import FILE, PICTURES, Exhibits, Pictures
from attndistill.exhibits.making import flops_of, write_exhibits
from attndistill.library import configure, execution_of
from attndistill.models.vit import build_vit

SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2.0, "position": "sincos"}
NAMES = [f"digit {number}" for number in range(10)]


@pytest.fixture(scope="module")
def judged() -> Judged:
    """A model of random weights, and digits of which the first test image is a training image too."""
    digits = load_digits()
    pixels = np.repeat((digits.images[:120] * 15).astype(np.uint8)[..., None], 3, axis=-1)
    pixels = np.pad(pixels, ((0, 0), (12, 12), (12, 12), (0, 0)))
    sets = [
        ArrayImages(pixels[part], digits.target[:120][part].astype(np.int64), [f"image {n}" for n in part])
        for part in (np.arange(0, 90), np.array([7, *range(90, 120)]))
    ]
    config = configure()
    return Judged(
        backbone=build_vit(32, 0, **SIZES).eval(),
        projector=None,
        layer=0,
        train=sets[0],
        test=sets[1],
        validation=np.arange(0, 90, 5),
        labelled=None,
        validation_fraction=0.2,
        validation_seed=0,
        classes=10,
        views=ViewRecipe.of(config.views),
        crop_share=1.0,
        seed=3,
        inputs={},
        execution=execution_of(config, "judge"),
        checkpoint=lambda inputs: None,
    )


def written(judged: Judged, directory: Path, **changes: object) -> Exhibits:
    told = {"name": "mine", "class_names": NAMES, "labelled": True, "features": True, "knn": ("knn/dino-v1", 5, 0.07)}
    write_exhibits(directory, judged, **{**told, **changes})
    return Exhibits.read(directory / FILE)


def test_the_confusion_adds_up_to_the_protocols_figure(judged, tmp_path):
    found = written(judged, tmp_path).confusion
    counts = np.array(found.counts)
    result = knn(judged.features, neighbours=[5])
    assert 100 * np.trace(counts) / counts.sum() == pytest.approx(result.top1)
    assert counts.sum(axis=1).tolist() == np.bincount(judged.test.labels, minlength=10).tolist()
    assert found.protocol == "knn/dino-v1, k = 5"
    true, taken, most = found.pairs[0]
    assert most == counts[NAMES.index(true), NAMES.index(taken)] == (counts - np.diag(np.diag(counts))).max()


def test_the_worst_mistakes_are_those_with_most_votes(judged, tmp_path):
    found = written(judged, tmp_path).mistakes
    shares = [mistake.share for mistake in found]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 6  # all that there are
    for mistake in found:
        place = list(judged.test.names).index(mistake.name)
        assert mistake.kind == NAMES[judged.test.labels[place]] != mistake.taken_for


def test_an_image_is_nearest_to_itself_and_its_picture_is_shown(judged, tmp_path):
    found = written(judged, tmp_path)
    asked = next(one for one in found.neighbours if one.name == "image 7")
    assert asked.nearest[0].name == "image 7"
    assert asked.nearest[0].cosine == pytest.approx(1, abs=1e-5)
    assert len(asked.nearest) == 5
    images = Pictures.read(tmp_path / PICTURES).images
    np.testing.assert_array_equal(images[asked.picture], judged.test.images[0])
    assert {photo.picture for photo in found.photos} == set(range(len(images)))
    assert [one.kind for one in found.neighbours] == NAMES


def test_images_without_labels_have_neighbours_alone(judged, tmp_path):
    found = written(judged, tmp_path, labelled=False, class_names=[])
    assert found.confusion is None
    assert found.mistakes == ()
    assert [one.kind for one in found.neighbours] == [None] * 10


def test_without_features_only_the_size_is_told(judged, tmp_path):
    found = written(judged, tmp_path, features=False)
    tensors = judged.backbone.state_dict().values()
    assert found.weight_bytes == 4 * sum(tensor.numel() for tensor in tensors)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_flops_are_those_of_the_matrix_products():
    tokens, width, hidden, depth = 17, 24, 48, 2
    block = 2 * tokens * width * (3 * width + width + 2 * hidden) + 2 * 2 * tokens * tokens * width
    patches = 2 * 16 * (8 * 8 * 3) * width
    with torch.no_grad():
        assert flops_of(build_vit(32, 0, **SIZES)) == depth * block + patches
