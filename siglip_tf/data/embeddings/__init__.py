"""Embeddings of a frozen tower, stored once and trained on (SigLiT, section 4.1)."""
