"""Image-text retrieval: recall at 1, 5, and 10, with several captions per image (the paper's section 4, Table 2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siglip_tf.evaluation.ranking import best_targets, check_embeddings, ranks

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class RetrievalResult:
    """Recalls from 0 to 1 by k, and the ranks from which they are computed (0 is best)."""

    image_to_text: dict[int, float]
    text_to_image: dict[int, float]
    image_ranks: np.ndarray  # (images,) rank of the image's best caption among all captions
    text_ranks: np.ndarray  # (texts,) rank of the text's image among all images

    def to_dict(self) -> dict[str, float]:
        """Returns the recalls by the names under which they are logged, such as `image_to_text_R@1`."""
        return {
            f"{direction}_R@{k}": recall
            for direction in ("image_to_text", "text_to_image")
            for k, recall in getattr(self, direction).items()
        }


def retrieval(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    image_of_text: Sequence[int] | np.ndarray | None = None,
    recall_at: Sequence[int] = RECALL_AT,
    chunk_size: int | None = None,
) -> RetrievalResult:
    """Returns image-to-text and text-to-image recall.

    From image to text, a hit means that any of the image's captions is among the first k. From text to image, it means
    that the text's image is among the first k. Among equal scores, the lower index comes first, as in a stable sort.
    The memory is O((images + texts) d + chunk_size^2); no matrix of images x texts is stored.

    Args:
        image_embeddings: (images, d), l2-normalized.
        text_embeddings: (texts, d), l2-normalized.
        image_of_text: int (texts,), the image that each text describes. Every image has at least one text. With None,
            text i describes image i.
        recall_at: the values of k.
        chunk_size: the side of the blocks of scores in memory. It does not change the result.

    Raises:
        ValueError: if shapes do not match, an index is out of range, or an image has no caption.

    Source: big_vision `evaluators/proj/image_text/image_text_retrieval.py`.
    """
    images = check_embeddings(image_embeddings, "image_embeddings")
    texts = check_embeddings(text_embeddings, "text_embeddings")
    if images.shape[1] != texts.shape[1]:
        raise ValueError(f"Image and text embeddings differ in width: {images.shape[1]} and {texts.shape[1]}.")
    owner = _owner_of_texts(image_of_text, len(images), len(texts))
    if min(recall_at, default=0) < 1:
        raise ValueError(f"`recall_at` needs numbers of at least 1. Received: {tuple(recall_at)}.")

    every_text = np.arange(len(texts))
    text_scores, _ = best_targets(texts, images, every_text, owner)
    text_ranks = ranks(texts, images, text_scores, owner, chunk_size)
    image_scores, captions = best_targets(images, texts, owner, every_text)
    image_ranks = ranks(images, texts, image_scores, captions, chunk_size)
    return RetrievalResult(
        {k: float((image_ranks < k).mean()) for k in recall_at},
        {k: float((text_ranks < k).mean()) for k in recall_at},
        image_ranks,
        text_ranks,
    )


def _owner_of_texts(image_of_text: Sequence[int] | np.ndarray | None, images: int, texts: int) -> np.ndarray:
    if image_of_text is None:
        if images != texts:
            raise ValueError(f"{images} images and {texts} texts: say which image each text describes.")
        return np.arange(texts)
    owner = np.asarray(image_of_text)
    if owner.shape != (texts,) or not np.issubdtype(owner.dtype, np.integer):
        raise ValueError(f"`image_of_text` must be ({texts},) int. Received: {owner.shape} {owner.dtype}.")
    if owner.min() < 0 or owner.max() >= images:
        raise ValueError(f"`image_of_text` must lie in 0..{images - 1}. Received: {owner.min()}..{owner.max()}.")
    missing = np.flatnonzero(np.bincount(owner, minlength=images) == 0)
    if missing.size:
        raise ValueError(f"{missing.size} images have no caption, the first is image {missing[0]}: leave them out.")
    return owner.astype(np.int64)
