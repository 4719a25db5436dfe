"""CLIP models by open_clip (``clip``), and the devices that they compute on (``devices``)."""
