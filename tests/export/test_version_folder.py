"""The list of files that an export writes: a copy counts as whole once every file has its size."""

import json
import pathlib
import shutil

import pytest

from siglip_tf.export.version_folder import FILES_FILE, file_sizes, missing, version_numbers


def test_a_copy_is_whole_once_every_file_is(exported, tmp_path):
    path = pathlib.Path(exported.path)
    assert version_numbers(str(path.parent)) == [exported.version]
    names = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    listed = json.loads((path / FILES_FILE).read_text())["files"]
    assert {*listed, FILES_FILE} == names
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    assert missing(str(copy), file_sizes(str(copy))) is None
    for name in listed:
        content = (copy / name).read_bytes()
        for partial in (None, content[:-1]):
            (copy / name).unlink(missing_ok=True)
            if partial is not None:
                (copy / name).write_bytes(partial)
            assert missing(str(copy), file_sizes(str(copy))) == name
        (copy / name).write_bytes(content)
    (copy / FILES_FILE).write_text("[]")
    with pytest.raises(ValueError, match="cannot be read"):
        missing(str(copy), file_sizes(str(copy)))
