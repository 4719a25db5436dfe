"""A pool from the net: metadata from the hub, then the images of its URLs, in the layout of img2dataset."""
