"""The fine-tuning benchmark: which pairs each seed trains on, and the check of merged adapters."""

import json

import numpy as np
import pytest

from tests.experiments.test_held_out import write_folder
from tests.models import small
from tools.benchmark import finetune


def test_each_seed_draws_other_pairs_and_all_are_asked_the_same(tmp_path):
    rows = [{"image": f"{i}.png", "caption": "a", "split": "test" if i % 5 == 4 else "train"} for i in range(50)]
    data = tmp_path / "data"
    write_folder(data, rows)
    drawn = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        assert finetune.subset(data, folder, 16, seed) == 16
        lines = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
        assert sum(line["split"] == "test" for line in lines) == 10
        drawn.append({line["image"] for line in lines if line["split"] == "train"})
        assert all((data / name).samefile(name) for name in drawn[-1])
    assert len(drawn[0]) == len(drawn[1]) == 16 != len(drawn[0] & drawn[1])
    with pytest.raises(ValueError, match="at most 40, the training rows of .*Received: 41"):
        finetune.subset(data, tmp_path / "2", 41, 0)
    for command in finetune.commands("start", data, tmp_path, 3).values():
        assert "seed=3" in command


def test_merged_adapters_are_compared_with_adapters(tmp_path):
    model = small.model()
    model.save_checkpoint(str(tmp_path / "start"))
    model.enable_lora(2)
    for variable in model.trainable_variables:
        variable.assign_add(np.full(variable.shape, 0.1, np.float32))
    model.save_checkpoint(str(tmp_path / "run" / "checkpoint"))
    model.save_adapters(str(tmp_path / "run" / "checkpoint.adapters.safetensors"))
    assert 0 <= finetune.merge_error(str(tmp_path / "start"), tmp_path / "run") < 1e-5
