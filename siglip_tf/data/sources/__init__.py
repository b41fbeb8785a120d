"""Where records come from: one interface (`base.Source`), one source a file."""

from siglip_tf.data.sources.base import Source, fingerprint_of

__all__ = ["Source", "fingerprint_of"]
