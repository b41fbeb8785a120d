"""A SentencePiece tokenizer whose vocabulary survives when TensorFlow clears its kernel caches."""

import hashlib
from typing import Any

import tensorflow as tf


def sentencepiece_tokenizer(model_proto: bytes) -> Any:
    """Returns a `tensorflow_text.SentencepieceTokenizer` of int32 ids, with its vocabulary under a shared name.

    In tensorflow-text the vocabulary belongs to the kernel that read it. `tf.random.set_seed`, and with it
    `keras.utils.set_random_seed`, drops that kernel, and then the tokenizer fails, even in a loaded SavedModel. A
    resource with a shared name, which is made from the vocabulary's bytes, lives as long as the process.
    """
    import tensorflow_text
    from tensorflow_text.python.ops.sentencepiece_tokenizer import gen_sentencepiece_tokenizer

    name = f"sentencepiece_{hashlib.sha256(model_proto).hexdigest()}"

    class Vocabulary(tf.saved_model.experimental.TrackableResource):
        def _create_resource(self) -> tf.Tensor:
            return gen_sentencepiece_tokenizer.sentencepiece_op(model=model_proto, shared_name=name)

    tokenizer = tensorflow_text.SentencepieceTokenizer(model=model_proto, out_type=tf.int32)
    tokenizer._model_resource = Vocabulary()
    return tokenizer
