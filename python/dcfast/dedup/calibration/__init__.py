"""How well each way of comparing pictures finds edited copies, and how often it errs, by threshold: on real pictures.

``pictures`` reads them, ``edits`` makes copies, ``methods`` are the ways to compare, ``chance`` extrapolates the
distances of unrelated pictures, ``measure`` puts them together, ``page`` writes table and plot, ``command`` is
``dcfast calibrate``.
"""
