"""scikit-learn's digits as a folder that the quickstart trains on and `tools.evaluate` reads."""

from sklearn.datasets import load_digits

from siglip_tf.data.sources.folders.source import FolderSource
from tools.digits import main


def test_every_digit_is_written_once_and_a_third_is_held_out(tmp_path):
    assert main([str(tmp_path)]) == 0
    train, held_out = (FolderSource(str(tmp_path), split=split) for split in ("train", "test"))
    assert (train.size, held_out.size) == (1198, 599)
    names = train.class_names
    target = load_digits().target
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for position in (0, 100, 598):
        example = held_out.fetch(position)
        digit = target[3 * position + 2]
        assert names[int(example["label"])] == words[digit]
        assert all(words[digit].encode() in c or str(digit).encode() in c for c in example["captions"])
    for word in words:
        assert any((tmp_path / "images" / "test" / word).iterdir())
