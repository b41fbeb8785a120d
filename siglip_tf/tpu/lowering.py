"""A replica's program as StableHLO, the language that the TPU compiler reads."""

from __future__ import annotations

import hashlib
import re

import tensorflow as tf

from siglip_tf.tpu.replica_program import ReplicaProgram

_PIPELINE = "tf-lower-to-mlprogram-and-hlo"


def lower(program: ReplicaProgram) -> str:
    """Lowers a replica's program to the text of a StableHLO module with one public function, `main`.

    Arguments and results of `main` are those of the program, in order. A variable that the step writes shares its
    memory with its new value, as it does under TPUStrategy.

    Raises:
        ValueError: an op of the program has no XLA form; the message names it.
    """
    text = tf.mlir.experimental.convert_function(program.function, pass_pipeline="", show_debug_info=True)
    text = tf.mlir.experimental.run_pass_pipeline(text, _PIPELINE, show_debug_info=True)
    left = sorted(set(re.findall(r'= "?(tf\.\w+|tf_\w+\.\w+)', text)))
    if left:
        raise ValueError(f"No XLA form is known for {', '.join(left)}; a TPU cannot run the step.")
    text = re.sub(r"func\.func @__inference_replica_step\w+", "func.func public @main", text, count=1)
    text = re.sub(r"^module( attributes \{[^\n]*\})? \{", "module @step {", text, count=1, flags=re.M)
    return _share_memory(_unpack_booleans(text), program)


def fingerprint(text: str) -> str:
    """Of what a module computes: names and source locations do not count."""
    bare = re.sub(r" loc\([^)]*\)|^#loc.*$", "", text, flags=re.M)
    return hashlib.sha256(bare.encode()).hexdigest()


def _share_memory(text, program):
    shared = {i: a.result for i, a in enumerate(program.arguments) if a.result is not None}
    start = text.index("func.func public @main(")
    end = text.index(" -> ", start)

    def mark(found):
        number = int(found[2])
        return f"{found[1]} {{tf.aliasing_output = {shared[number]} : i32}}" if number in shared else found[0]

    return text[:start] + re.sub(r"(%arg(\d+): tensor<[^>]*>)", mark, text[start:end]) + text[end:]


def _unpack_booleans(text):
    """TensorFlow prints large boolean constants as packed bits, where newer MLIR reads a byte each."""

    def unpack(found):
        packed = bytes.fromhex(found[1])
        count = 1
        for size in found[2].split("x")[:-1]:
            count *= int(size)
        if len(packed) == count:
            return found[0]
        bits = "".join(f"{packed[i // 8] >> (i % 8) & 1:02X}" for i in range(count))
        return f'dense<"0x{bits}"> : tensor<{found[2]}i1>'

    return re.sub(r'dense<"0x([0-9A-Fa-f]+)"> : tensor<((?:\d+x)+)i1>', unpack, text)
