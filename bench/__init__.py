"""Benches: each operation beside the peers that do the same job, checked before it is timed. ``python -m bench``."""
