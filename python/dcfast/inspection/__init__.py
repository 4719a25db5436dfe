"""A sample of a run looked at: what became of it and why (``dcfast why``), as it is (``dcfast inspect``).

``facts`` finds all that a run knows of a sample, ``copies`` its near copies, ``words`` says it, ``picture`` draws in a
terminal, ``target`` reads what was named, ``why`` and ``command`` are the commands.
"""
