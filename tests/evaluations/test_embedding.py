"""The feature a probe judges: after any layer of a projector of any depth."""

import numpy as np
import pytest
import torch

from attndistill.data.loading import evaluation_batches
from attndistill.data.store import ArrayImages
from attndistill.data.views import ViewRecipe
from attndistill.evaluations.embedding import embed_split
from attndistill.models.projector import Projector
from attndistill.models.vit import build_vit

CPU = torch.device("cpu")
RECIPE = ViewRecipe(3, 16, (0.2, 1.0), (3 / 4, 4 / 3), 0.5, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2.0, "position": "sincos"}


@pytest.mark.parametrize(("depth", "layer"), [(depth, layer) for depth in (1, 2, 4, 8) for layer in range(depth + 1)])
def test_the_feature_after_a_layer_of_p_is_that_layers_output_on_the_class_token(depth, layer):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    images = ArrayImages(pixels, np.arange(7, dtype=np.int64), [str(i) for i in range(7)])
    backbone, projector = build_vit(16, 0, **VIT), Projector(16, 24, depth, seed=1)
    options = {"crop_share": 1.0, "batch_size": 3, "device": CPU}
    found = embed_split(backbone, images, RECIPE, **options, projector=projector, layer=layer)

    (batch,) = evaluation_batches(images, RECIPE, crop_share=1.0, batch_size=7)
    with torch.no_grad():
        feature = backbone.forward_features(batch.images)[:, 0]
        for number, linear in enumerate(projector.layers[:layer], start=1):
            feature = linear(feature)
            feature = projector.norm(feature) if number == depth else torch.nn.functional.gelu(feature)
    assert found.features.shape[1] == feature.shape[1]
    np.testing.assert_allclose(found.features, feature.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.labels, np.arange(7))
