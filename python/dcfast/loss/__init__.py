"""Contrastive losses that never store the matrix of logits: CLIP and SigLIP, on one device or many ranks."""
