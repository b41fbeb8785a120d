"""The prepared folder runs end to end through jax's client on this machine's CPU, as it will on an accelerator."""

import json
import os
import subprocess
import sys

import pytest

from siglip_tf.models.variants import VARIANTS
from tools.benchmark import accelerator


@pytest.mark.slow
def test_programs_are_prepared_checked_and_timed_beside_rivals(tmp_path):
    pytest.importorskip("jax")
    tiny = "--n 96 --dim 16 --tiles 32 --pairs 4 --size mu --patch 8 --image-size 16 --text-length 5 --vocab-size 40"
    accelerator.main([str(tmp_path / "card"), *tiny.split(), "--attention", "einsum"])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(tmp_path / "card" / "run.py"), "--rounds", "2"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    tables = json.loads((tmp_path / "card" / "results.json").read_text())["tables"]
    of_loss, of_step = tables["Loss and gradients, n = 96, d = 16"], tables["Training step, 4 pairs"]
    assert max(of_loss["siglip_tf, float32, tile 32"]["errors"].values()) < 1e-6
    assert 1e-5 < max(of_loss["siglip_tf, bfloat16, tile 32"]["errors"].values()) < 2e-2
    ours = of_step["siglip_tf, mixed_bfloat16, plain attention"]
    assert "the three matmuls alone, torch" in of_loss
    assert 5 < ours["loss"] < 20 and len(ours["seconds"]) == 2
    assert "siglip_tf, bfloat16" in (tmp_path / "card" / "results.md").read_text()


@pytest.mark.slow
def test_a_step_for_a_gpu_has_cudnns_attention(tmp_path):
    tiny = "--n --pairs 4 --size mu --patch 8 --image-size 16 --text-length 5 --vocab-size 40"
    accelerator.main([str(tmp_path), *tiny.split()])
    (entry,) = json.loads((tmp_path / "manifest.json").read_text())
    module = (tmp_path / entry["file"]).read_text()
    for target in ("@__cudnn$fmhaSoftmax(", "@__cudnn$fmhaSoftmaxBackward("):
        assert module.count(target) == 2 * VARIANTS["mu"].depth
