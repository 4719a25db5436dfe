"""CLIP embeddings and scores of a pool, and what is made of them."""
