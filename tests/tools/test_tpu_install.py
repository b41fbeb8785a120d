"""The commands that docs/tpu.md prints for a TPU host, as far as a machine without chips gets."""

import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tpu.md"


def commands():
    """The first block of commands on the page."""
    return re.search(r"## Install on a TPU host\n.*?```bash\n(.*?)```", PAGE.read_text(), re.S)[1]


def test_the_page_says_the_versions_of_setup_cfg():
    pins = dict(
        re.findall(r"^    (tensorflow-tpu|jax|libtpu) ==([\d.]+?)(?:\.\*)?$", (ROOT / "setup.cfg").read_text(), re.M)
    )
    text = PAGE.read_text()
    for name, version in pins.items():
        assert f"{name} {version}" in text
    assert "tools.tpu_host --check" in commands()


@pytest.mark.slow
def test_a_fresh_environment_gets_as_far_as_the_look_for_chips(tmp_path):
    script = commands().replace(".venv-tpu", str(tmp_path / "environment"))
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "TF_CONFIG")}
    done = subprocess.run(
        ["bash", "-ec", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=3000
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    said = [line.partition(":")[0] for line in lines[-6:]]
    assert said == ["versions", "libtpu's names", "import tensorflow", "tensorflow-text", "attention kernel", "chips"]
    assert lines[-1].startswith(("chips: none, which is where a machine without them stops", "chips: 4", "chips: 8"))
