"""Stand-in hosts, input processes and a coordinator on loopback: the batches of one host, whatever is killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data import broken_shards
from tests.data.embeddings.test_stored import writer
from tests.data.memory_source import encode, tiny_preprocessing

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tar shards with broken records of every kind, a folder of pictures with captions, and stored embeddings."""
    top = tmp_path_factory.mktemp("pod")
    (top / "tar").mkdir()
    broken_shards.write_tar(top / "tar", sound=150)
    (top / "folder").mkdir()
    lines = ["file_name,caption"]
    for number in range(120):
        data = encode(number) if number % 40 else b"no image"
        (top / "folder" / f"{number}.png").write_bytes(data)
        lines.append(f"{number}.png,a picture of colour {number}")
    (top / "folder" / "captions.csv").write_text("\n".join(lines))
    writer(top / "embeddings", tiny_preprocessing()).run()
    return top


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hosts", "kinds", "steps", "kills"),
    [
        ("2", "tar,folder,mixture,embeddings", 200, 0),
        ("4", "tar", 200, 0),
        ("2", "tar", 200, 10),
        ("4-2", "runs,tar", 60, 1),
    ],
)
def test_hosts_receive_the_batches_of_one(folder, hosts, kinds, steps, kills):
    command = [sys.executable, "-m", "tests.data.service.pod", str(folder), hosts, kinds, str(steps), str(kills)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("steps equal") == len(kinds.split(","))
