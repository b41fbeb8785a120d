"""The TPU compiler's answers: memory, time, hops, what does not fit; and the cache."""

import pytest

from siglip_tf import tpu
from siglip_tf.tpu import compiler
from siglip_tf.tpu.report import refused_bytes
from siglip_tf.tpu.topology import GIB

FOUR = tpu.Topology("v4:2x2x1")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_a_refusal_says_by_how_much():
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 40.18G of "
        "30.75G hbm. Exceeded hbm capacity by 9.43G."
    )
    assert refused_bytes(message) == int(40.18 * GIB)
    temporaries = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (55.94G) exceeds "
        "available HBM (30.75G)."
    )
    assert refused_bytes(temporaries) == int(55.94 * GIB)
    refused = compiler.Compiled(FOUR, 4, None, message, "", {}, 1.0)
    with pytest.raises(ValueError, match="fits v4:2x2x1"):
        tpu.analyse(refused)
    with pytest.raises(ValueError, match="how much memory"):
        refused_bytes("RESOURCE_EXHAUSTED: something else")


@pytest.mark.parametrize("name", ["v3:2x2", "v4:2x2", "v5e:2x2x1", "v4:0x2x1", "v4", "v4-8"])
def test_a_wrong_topology(name):
    with pytest.raises(ValueError, match=f"Received: '{name}'"):
        tpu.Topology(name)


def test_topologies():
    assert (FOUR.chips, FOUR.shape, FOUR.chip.flops) == (4, (2, 2, 1), 275e12)
    assert tpu.Topology("v5e:4x8").chips == 32
    with pytest.raises(ValueError, match="at most the 4 chips"):
        tpu.compile_module("", FOUR, replicas=5)


def test_without_the_compiler_one_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr(compiler.importlib.metadata, "version", _not_installed)
    with pytest.raises(ImportError, match="pip install 'siglip-tf\\[compiler\\]'"):
        tpu.compile_module("module {}", FOUR)


def _not_installed(name):
    raise compiler.importlib.metadata.PackageNotFoundError(name)


def test_the_largest_batch_is_found_in_few_compiles():
    calls = []

    def compile_at(batch):
        calls.append(batch)
        used = int((3 + batch * 0.0021) * GIB)
        fits = used <= FOUR.chip.usable
        return tpu.Report(FOUR, batch, fits, used, None, None, None, 0, "")

    reports = tpu.largest_batch(compile_at, chips=4, start=1024, step=64)
    best = max(r.global_batch for r in reports if r.fits)
    assert best == int(27.75 / 0.0021) // 256 * 256
    assert len(calls) <= 5 and [r.global_batch for r in reports] == sorted(calls)
    with pytest.raises(ValueError, match="multiple of 256"):
        tpu.largest_batch(compile_at, 4, 1000)
