"""Small sets in the layouts they are published in."""

import json
import pathlib

from siglip_tf.evaluation.readers import XM3600_LANGUAGES
from tests.example_model import pictures


def write_folder(root: pathlib.Path, classes: dict[str, int], seed: int = 0) -> None:
    """`root/<class>/`, pictures in it, some in a folder below, and files that are no pictures."""
    images = iter(pictures(sum(classes.values()), seed))
    for name, count in classes.items():
        (root / name / "more").mkdir(parents=True)
        (root / name / "notes.txt").write_text("not a picture")
        for i in range(count):
            path = root / name / ("more" if i == 1 else "") / f"{i}.{'jpg' if i % 2 else 'PNG'}"
            path.write_bytes(next(images))
    (root / "empty").mkdir()


def write_coco(root: pathlib.Path, images: int = 6) -> None:
    """Karpathy's file and COCO's own, of the same pictures; some belong to another split."""
    entries, own = [], {"images": [], "annotations": []}
    for folder in ("val2014", "train2014", "annotations"):
        (root / folder).mkdir(parents=True)
    for i, data in enumerate(pictures(images)):
        split = ("test", "test", "restval")[i % 3]
        folder = "train2014" if split == "restval" else "val2014"
        name = f"COCO_{folder}_{i:012d}.jpg"
        (root / folder / name).write_bytes(data)
        captions = [f"caption {j} of picture {i} " for j in range(5 + i % 2)]
        entries.append(
            {
                "filepath": folder,
                "filename": name,
                "split": split,
                "cocoid": i,
                "sentences": [{"raw": caption, "tokens": caption.split()} for caption in captions],
            }
        )
        if folder == "val2014":
            own["images"].append({"id": i, "file_name": name, "height": 40, "width": 48})
            own["annotations"] += [{"image_id": i, "id": 10 * i + j, "caption": c} for j, c in enumerate(captions)]
    own["images"].append({"id": 99, "file_name": "without_captions.jpg"})
    (root / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": entries}))
    (root / "annotations" / "captions_val2014.json").write_text(json.dumps(own))


def write_xm3600(root: pathlib.Path, images: int = 4) -> None:
    """`captions.jsonl` in all 36 languages; the last picture has no Māori caption."""
    (root / "images").mkdir(parents=True)
    lines = []
    for i, data in enumerate(pictures(images)):
        entry = {"image/key": f"{i:016x}", "image/locale": "en"}
        (root / "images" / f"{i:016x}.jpg").write_bytes(data)
        for language in XM3600_LANGUAGES:
            count = 0 if language == "mi" and i == images - 1 else 1 + (i + len(language)) % 3
            captions = [f"{language} {j} صورة {i}" for j in range(count)]
            entry[language] = {
                "caption": captions,
                "caption/tokenized": captions,
                "caption/tokenized/lowercase": captions,
            }
        lines.append(json.dumps(entry, ensure_ascii=False))
    (root / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
