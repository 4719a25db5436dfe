"""Images: decoding (``decode``), content and perceptual hashes (``signatures``; ``perceptual``:
of any form of a picture), blurred boxes (``blur``)."""
