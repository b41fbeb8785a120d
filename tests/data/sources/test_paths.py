"""Braces and globs as the webdataset library and the shell read them."""

import pytest

from siglip_tf.data.sources.paths import expand_braces, find_shards, is_remote
from tests.data.webdataset_library import webdataset


@pytest.mark.parametrize(
    "pattern", ["a-{000..011}.tar", "a-{0..11}.tar", "{00..01}/x-{8..10}.tar", "{a,b}-{0..2}.tar", "plain.tar"]
)
def test_braces_equal_the_webdataset_library(pattern):
    assert expand_braces(pattern) == webdataset.shardlists.expand_urls(pattern)


def test_find_shards(tmp_path):
    for name in ("b.tar", "a.tar", "c.txt"):
        (tmp_path / name).touch()
    expected = [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]
    assert find_shards(str(tmp_path), ".tar") == expected
    assert find_shards(str(tmp_path / "*.tar"), ".tar") == expected
    assert find_shards(expected[::-1], ".tar") == expected[::-1]
    with pytest.raises(ValueError, match="a.tar occurs twice"):
        find_shards([str(tmp_path), expected[0]], ".tar")


def test_is_remote():
    assert is_remote("gs://bucket/a") and not is_remote("/a") and not is_remote("file:///a")
