"""What a stage refuses before it computes: inputs that are not those its configuration speaks of."""

import pytest
import torch


def test_more_views_than_the_cache_holds_are_refused_naming_both(taught, stage):
    with pytest.raises(ValueError, match=r"targets.views is 3, but .*/targets holds 2: run `targets` again, or set "):
        stage("distill", "attndistill", **{"targets.views": 3})
    assert not list((taught / ".work").glob("distill-*"))


def test_fewer_views_than_the_cache_holds_are_the_first_of_them(stage):
    stage("distill", "attndistill", **{"targets.views": 1})


@pytest.mark.parametrize(("name", "item"), [("probe", "teacher"), ("targets", ""), ("distill", "attndistill")])
def test_a_model_of_another_image_size_is_refused_before_torch_is_asked(stage, name, item):
    with pytest.raises(
        ValueError, match=r"pretrained/teacher was made for images of 32 px, and views.image_size is 16"
    ):
        stage(name, item, **{"views.image_size": 16})


def test_a_device_that_torch_does_not_see_is_refused_with_those_it_sees(stage, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^runtime.device is mps, but torch sees no such device; allowed here: auto"):
        stage("probe", "teacher", **{"runtime.device": "mps"})
