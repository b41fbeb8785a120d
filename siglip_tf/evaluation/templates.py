"""Prompt templates from a few named sets or from a file."""

import tensorflow as tf

from siglip_tf.evaluation.text_files import read_names

TEMPLATES = {
    "name": ("{}",),
    "photo": ("a photo of a {}",),
    "photos": (
        "a photo of a {}",
        "a photo of the {}",
        "a photo of many {}",
        "a close photo of one {}",
        "a small {} far away",
        "a dark, blurry picture of a {}",
        "a bright, clear picture of the {}",
        "this is what a {} looks like",
        "{}",
    ),
    "drawings": ("a drawing of a {}", "a sketch of the {}", "a painting of a {}", "a {} made of paper", "a toy {}"),
}


def read_templates(name_or_path: str) -> tuple[str, ...]:
    """Returns a named set of `TEMPLATES`, or the templates of a file.

    The file has one template per line or is a JSON list. Each template must contain exactly one `{}`.

    Raises:
        ValueError: if there is no such set or file, or a template does not contain exactly one `{}`.
    """
    if name_or_path in TEMPLATES:
        return TEMPLATES[name_or_path]
    if not tf.io.gfile.exists(name_or_path):
        raise ValueError(f"{name_or_path!r} is no file and none of the template sets {sorted(TEMPLATES)}.")
    templates = tuple(read_names(name_or_path))
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"{name_or_path}: a template needs exactly one `{{}}`. Received: {template!r}.")
    return templates
