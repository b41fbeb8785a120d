"""Models for TensorFlow Serving, LiteRT, and ONNX: `saved_model`, `litert`, and `onnx`."""

from siglip_tf.export.saved_model import Export, export_saved_model

__all__ = ["Export", "export_saved_model"]
