"""One line opens every kind of source."""

import pyarrow
import pyarrow.parquet
import pytest

from siglip_tf.data.sources import FolderSource, ParquetSource, TarSource, TFRecordSource, open_source
from siglip_tf.synthetic import SceneSource
from tests.data.memory_source import encode
from tests.data.sources.test_tar import img2dataset_sample, write_shard
from tests.data.sources.test_tfrecord import img2dataset_record, write


def test_kinds(tmp_path):
    for folder in ("tar", "record", "parquet", "images"):
        (tmp_path / folder).mkdir()
    write_shard(tmp_path / "tar/0.tar", [img2dataset_sample(1)])
    write(tmp_path / "record/0.tfrecord", [img2dataset_record(1)])
    inside = pyarrow.Table.from_pylist([{"image": {"bytes": encode(1)}, "caption": "x"}])
    pyarrow.parquet.write_table(inside, str(tmp_path / "parquet/0.parquet"))
    (tmp_path / "images/a.png").write_bytes(encode(1))
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{"image": "a.png", "caption": "x"}]), str(tmp_path / "images/0.parquet")
    )
    kinds = {"tar": TarSource, "record": TFRecordSource, "parquet": ParquetSource, "images": FolderSource}
    for folder, kind in kinds.items():
        assert isinstance(open_source(str(tmp_path / folder)), kind)
        file = next(path for path in sorted((tmp_path / folder).iterdir()) if path.name.startswith("0."))
        assert isinstance(open_source(str(file)), kind)
    assert isinstance(open_source(str(tmp_path / "tar/{0..0}.tar")), TarSource)
    scenes = open_source("scenes", split="test", seed=3)
    assert isinstance(scenes, SceneSource) and scenes.split == "test" and scenes.seed == 3
    with pytest.raises(ValueError, match="Shards have no splits"):
        open_source(str(tmp_path / "tar"), split="test")
    with pytest.raises(ValueError, match="Expected a folder of shards or images, .* Received: 'nothing.zip'"):
        open_source("nothing.zip")
