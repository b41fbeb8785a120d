"""Zero-shot classification, retrieval and few-shot probes as the paper reports them."""

from siglip_tf.evaluation.callback import EvaluationCallback
from siglip_tf.evaluation.embed import Embedder
from siglip_tf.evaluation.few_shot import FewShotResult, few_shot
from siglip_tf.evaluation.ranking import top_k
from siglip_tf.evaluation.retrieval import RetrievalResult, retrieval
from siglip_tf.evaluation.tasks import Evaluation, FewShotTask, RetrievalTask, ZeroShotTask
from siglip_tf.evaluation.zero_shot import ZeroShotResult, class_embeddings, make_prompts, zero_shot

__all__ = [
    "Embedder",
    "Evaluation",
    "EvaluationCallback",
    "FewShotResult",
    "FewShotTask",
    "RetrievalResult",
    "RetrievalTask",
    "ZeroShotResult",
    "ZeroShotTask",
    "class_embeddings",
    "few_shot",
    "make_prompts",
    "retrieval",
    "top_k",
    "zero_shot",
]
