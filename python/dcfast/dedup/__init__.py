"""Copies: of evaluation images in a pool, and of a pool's images in itself and in older pools.

``records``: signatures of images; ``signature_file``, ``match``, ``evidence``: pool images that are evaluation images.
``pairs``, ``edges``, ``groups``, ``duplicates``: pairs of copies, the groups they make, which of each is kept, and why;
``blocks``: embeddings larger than memory; ``semdedup``: SemDeDup's way; ``options``: of a search for duplicates.
"""
