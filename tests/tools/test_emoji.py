"""The emoji folder, from packages made here in the layout of the real ones; no registry is asked."""

import io
import json
import subprocess
import tarfile

import pytest
from PIL import Image

from tools import emoji

RECORDS = [
    {"name": name, "short_names": short, "unified": code, "image": f"{code.lower()}.png", "sort_order": order,
     "has_img_google": True, "has_img_twitter": code != "1F42E", "has_img_facebook": True}
    for order, (name, short, code) in enumerate([
        ("DOG FACE", ["dog"], "1F436"),
        ("COW FACE", ["cow"], "1F42E"),
        ("HEAVY_PLUS", ["heavy_plus_sign", "plus"], "2795"),
    ])
]  # fmt: skip


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()


def package(folder, vendor, records=RECORDS):
    with tarfile.open(folder / f"emoji-datasource-{vendor}-16.0.0.tgz", "w:gz") as archive:
        files = {"package/emoji.json": json.dumps(records).encode()}
        files |= {f"package/img/{vendor}/64/{record['image']}": png("red") for record in records}
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_a_vendor_is_held_out_and_gaps_filled_by_others_are_left_out(tmp_path, capsys, monkeypatch):
    packages = tmp_path / "packages"
    packages.mkdir()
    for vendor in ("google", "twitter", "facebook"):
        package(packages, vendor)
    command = [str(tmp_path / "folder"), "--packages", str(packages)]
    assert emoji.main([*command, "--train", "twitter"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "folder" / "captions.jsonl").read_text().splitlines()]
    # twitter has no cow of its own, so the cow is neither trained on nor asked about.
    assert sorted((row["label"], row["split"]) for row in rows) == [
        ("dog face", "test"), ("dog face", "train"), ("heavy plus", "test"), ("heavy plus", "train"),
    ]  # fmt: skip
    assert rows[1]["captions"] == ["heavy plus", "a picture of heavy plus", "an emoji of heavy plus",
                                   "heavy plus sign", "plus"]  # fmt: skip
    assert len({row["group"] for row in rows}) == 2
    assert all((tmp_path / "folder" / row["image"]).read_bytes() == png("red") for row in rows)
    licenses = (tmp_path / "folder" / "LICENSES.txt").read_text()
    assert "CC-BY 4.0" in licenses and "property of Facebook" in licenses
    assert "make quickstart DATA=" in capsys.readouterr().out

    assert emoji.main(command) == 2  # the folder is there
    assert "Name another folder" in capsys.readouterr().err
    assert emoji.main([str(tmp_path / "other"), "--train", "google", "--test", "google"]) == 2
    assert "Received: 'google'" in capsys.readouterr().err
    assert emoji.main([str(tmp_path / "other"), "--limit", "1"]) == 2

    # A registry that does not answer is one sentence.
    failed = subprocess.CompletedProcess([], 1, "", "npm error network timeout")
    monkeypatch.setattr(emoji.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(emoji.subprocess, "run", lambda *given, **more: failed)
    assert emoji.main([str(tmp_path / "other"), "--packages", str(tmp_path / "none")]) == 2
    message = capsys.readouterr().err
    assert "emoji-datasource-google: npm error network timeout" in message and "Traceback" not in message
    monkeypatch.setattr(emoji.shutil, "which", lambda name: None)
    assert emoji.main([str(tmp_path / "other"), "--packages", str(tmp_path / "none")]) == 2
    assert "npm is not installed" in capsys.readouterr().err


def test_a_package_without_pictures_is_an_error(tmp_path):
    package(tmp_path, "google", [{**record, "has_img_google": False} for record in RECORDS])
    with pytest.raises(ValueError, match="holds no pictures"):
        emoji.write(tmp_path / "folder", ["google"], "twitter", tmp_path)
