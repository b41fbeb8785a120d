"""Lowers a replica's program to StableHLO, the input language of the TPU compiler."""

from __future__ import annotations

import hashlib
import json
import math
import re

import numpy as np
import tensorflow as tf

from siglip_tf.tpu.replica_program import ReplicaProgram

_PIPELINE = "tf-lower-to-mlprogram-and-hlo"


def lower(program: ReplicaProgram) -> str:
    """Lowers a replica's program to the text of a StableHLO module with one public function, `main`.

    The arguments and results of `main` are those of the program, in order. A variable that the step writes shares its
    memory with its new value, as under TPUStrategy.

    Raises:
        ValueError: if an op of the program has no XLA form. The message names the op.
    """
    text = tf.mlir.experimental.convert_function(program.function, pass_pipeline="", show_debug_info=True)
    text = tf.mlir.experimental.run_pass_pipeline(text, _PIPELINE, show_debug_info=True)
    left = sorted(set(re.findall(r'= "?(tf\.\w+|tf_\w+\.\w+)', text)))
    if left:
        raise ValueError(f"No XLA form is known for {', '.join(left)}; a TPU cannot run the step.")
    text = re.sub(r"func\.func @__inference_replica_step\w+", "func.func public @main", text, count=1)
    text = re.sub(r"^module( attributes \{[^\n]*\})? \{", "module @step {", text, count=1, flags=re.M)
    return _share_memory(_spell_out_booleans(text), program)


def fingerprint(text: str) -> str:
    """Returns a hash of what a module computes. It ignores names and source locations."""
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


def _spell_out_booleans(text):
    """Writes boolean constants as lists of `true` and `false`.

    TensorFlow prints a large constant as hexadecimal digits with eight values per byte. Later versions of MLIR use one
    byte per value. No hexadecimal form is valid for every version of jax, but all of them can parse lists.
    """

    def spell(found):
        digits, sizes = bytes.fromhex(found[1]), [int(size) for size in found[2].split("x")[:-1]]
        values = np.frombuffer(digits, np.uint8)
        count = math.prod(sizes)
        if len(values) != count:
            values = np.unpackbits(values, bitorder="little")[:count]
        listed = json.dumps((values.reshape(sizes) != 0).tolist())
        return f"dense<{listed}> : tensor<{found[2]}i1>"

    return re.sub(r'dense<"0x([0-9A-Fa-f]+)"> : tensor<((?:\d+x)+)i1>', spell, text)
