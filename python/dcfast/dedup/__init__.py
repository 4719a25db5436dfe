"""Copies: signature records of images (``records``), and pool images that are evaluation images (``match``)."""
