"""Models for TensorFlow Serving and anything else that loads a SavedModel."""

from siglip_tf.export.saved_model import Export, export_saved_model

__all__ = ["Export", "export_saved_model"]
