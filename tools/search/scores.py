"""Explains the score of a result, in numbers and in a sentence."""

import math

import numpy as np

from siglip_tf import pages

from .index import Towers

_SAMPLE = 2_000  # number of pictures that represent the folder


class Scores:
    """Explains the scores of a folder's pictures.

    Args:
        towers: the model.
        vectors: the vectors of the index (pictures, embed_dim).
    """

    def __init__(self, towers: Towers, vectors: np.ndarray):
        self._towers = towers
        self._count = len(vectors)
        self._sample = vectors[:: max(1, len(vectors) // _SAMPLE)]
        calibration = towers.model.calibration
        self._threshold = None if calibration is None else float(calibration["threshold"])

    def of_pair(self, cosine: float, with_text: bool) -> dict[str, float | None]:
        """Returns the cosine, and for a picture and a text of a sigmoid-trained model the probability of a match."""
        has_probability = with_text and self._towers.bias is not None
        return {"cosine": cosine, "probability": self._towers.probability(cosine) if has_probability else None}

    def explanations(self, query: np.ndarray, cosines: list[float], with_text: bool) -> list[str]:
        """Returns a short explanation for each result, best first.

        Args:
            query: the embedding of the query (embed_dim,).
            cosines: the cosines of the results with the query.
            with_text: whether the query is a text. Otherwise, it is a picture.
        """
        middle = float(np.median(self._sample @ query)) if len(self._sample) else 0.0
        return [self._explanation(rank, cosine, middle, with_text) for rank, cosine in enumerate(cosines, 1)]

    def _explanation(self, rank: int, cosine: float, middle: float, with_text: bool) -> str:
        place = f"Rank {rank:,} of {self._count:,}."
        other = "the text" if with_text else "the other picture"
        if not with_text or self._towers.bias is None:
            return (
                f"{place} The cosine with {other} is {cosine:.3f}; a picture in the middle of this folder has "
                f"{middle:.3f}. The order counts: a cosine is no probability."
            )
        temperature, bias = self._towers.temperature, self._towers.bias
        logit = temperature * cosine + bias
        probability = pages.share_text(self._towers.probability(cosine))
        usual = pages.share_text(self._towers.probability(middle))
        sign = "+" if bias >= 0 else "-"
        text = (
            f"{place} The cosine with the text is {cosine:.3f}. The model's logit is {temperature:.4g} x {cosine:.3f} "
            f"{sign} {abs(bias):.4g} = {logit:.3f}, and its sigmoid, {probability}, is the probability that picture "
            f"and text belong together, judged alone. A picture in the middle of this folder gets {usual}."
        )
        if self._threshold is not None:
            reached = self._towers.probability(cosine) >= self._threshold
            verdict = "reaches" if reached else "does not reach"
            text += f" It {verdict} the calibrated threshold of {pages.share_text(self._threshold)}."
        return text


def label_shares(temperature: float, cosines: list[float]) -> list[float]:
    """Returns the softmax of the logits of several texts for one picture."""
    largest = max(cosines)
    weights = [math.exp(temperature * (cosine - largest)) for cosine in cosines]
    return [weight / sum(weights) for weight in weights]
