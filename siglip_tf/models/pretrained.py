"""A model from any public checkpoint, and a checkpoint from a model; formats are `siglip_tf.checkpoints`' business."""

import os
from typing import Any

import numpy as np

from siglip_tf import checkpoints
from siglip_tf.checkpoints import Checkpoint
from siglip_tf.data import Preprocessing


class PretrainedMixin:
    """`from_checkpoint`, `to_checkpoint` and `save_checkpoint` of the SigLIP model."""

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike,
        image_size: int | tuple[int, int] | None = None,
        tokenizer: str | os.PathLike | None = None,
        verbose: bool = True,
        **options: Any,
    ):
        """A model with the weights, architecture and preprocessing of a checkpoint.

        Args:
            path: a big_vision or AugReg npz, a Hugging Face folder or safetensors file, a KerasHub preset folder, or a
                folder that `save_checkpoint` wrote; told by content.
            image_size: another resolution; position embeddings are resampled bilinearly.
            tokenizer: a SentencePiece model file for formats that carry none (npz).
            verbose: whether to print what was found.
            **options: further arguments of `SigLIP` (`remat`, `dropout`, ...). For a checkpoint of an image tower
                alone (AugReg), those of a text tower, which starts from initial weights: at least `text`.

        Returns:
            The model; `model.preprocessing` is the checkpoint's, or None if it says nothing of it.

        Raises:
            FileNotFoundError: nothing is there.
            ValueError: the file is damaged or of another kind, or its weights are not those of one whole model.
        """
        checkpoint = checkpoints.read(path, tokenizer)
        if image_size is not None:
            checkpoint = checkpoints.with_image_size(checkpoint, image_size)
        missing = [tower for tower in ("image", "text") if tower not in checkpoint.towers]
        if "text" in missing and "text" not in options:
            raise ValueError(
                f"{path} holds an image tower alone. Say which text tower to train beside it, for instance "
                "from_checkpoint(path, text='B', text_length=16, vocab_size=32_000)."
            )
        model = cls(**{**checkpoint.architecture, **options})
        fresh = (
            {n: v.numpy() for n, v in model.named_weights().items() if n not in checkpoint.weights} if missing else {}
        )
        model.assign_weights({**checkpoint.weights, **fresh})
        if checkpoint.preprocessing is not None:
            # Without a vocabulary (npz files hold none) the model still knows how its images are prepared.
            config = checkpoint.preprocessing if checkpoint.tokenizer else {**checkpoint.preprocessing, "text": None}
            model.preprocessing = Preprocessing.from_config(config, checkpoint.tokenizer)
        if verbose:
            print(_description(checkpoint, fresh))
        return model

    def to_checkpoint(self) -> Checkpoint:
        """The model as named arrays, architecture and preprocessing, for `siglip_tf.checkpoints.write`."""
        weights = {name: np.asarray(variable.numpy(), np.float32) for name, variable in self.named_weights().items()}
        preprocessing, tokenizer = None, None
        if self.preprocessing is not None:
            preprocessing = self.preprocessing.to_config(vocabulary=False)
            tokenizer = None if self.preprocessing.text is None else self.preprocessing.text.model_proto
        architecture = {**self._arguments, "image_size": self.image_size}
        return Checkpoint(architecture, weights, preprocessing, tokenizer=tokenizer, source=self.name)

    def save_checkpoint(self, path: str | os.PathLike, format: str = "native") -> tuple[str, ...]:
        """Writes weights, architecture and preprocessing; aside first, then renamed.

        Args:
            path: the folder to make; one file for "big_vision".
            format: "native", "big_vision", "hugging_face" or "keras_hub".

        Returns:
            Notes on what the format cannot say exactly.

        Raises:
            ValueError: an unknown format, or a model that it cannot express.
        """
        return checkpoints.write(path, self.to_checkpoint(), format)


def _description(checkpoint, fresh):
    lines = [checkpoints.describe(checkpoint)]
    if fresh:
        lines.append(f"{len(fresh)} weights are not in it and start from initial values: {', '.join(_groups(fresh))}")
    return "\n".join(lines)


def _groups(names):
    """Names as `tower/part`, in order, once each."""
    return list(dict.fromkeys("/".join(name.split("/")[:2]) for name in names))
