"""The model that settings describe."""

import pytest
from ml_collections import ConfigDict

from recipes import siglip
from siglip_tf.experiments import build


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_dtype_policy_auto_is_that_of_the_machine(policy, monkeypatch):
    monkeypatch.setattr(build, "recommended_dtype_policy", lambda: policy)
    c: ConfigDict = siglip.RECIPE.settings()
    siglip.synthetic(c)
    c.model.update({"dtype": "auto", "image_depth": 1, "text_depth": 1})
    model = build.build_model(c, steps=10)
    assert model.dtype_policy.name == policy
    assert model.trainable_variables[0].dtype == "float32"
