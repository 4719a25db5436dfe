"""Images: decoding (``decode``), content and perceptual hashes (``signatures``), blurred boxes (``blur``)."""
