"""The report of a run: ``report.json`` with every number, ``report.html`` to look at, from what the stages recorded.

``collect`` gathers the numbers, ``samples`` chooses what to show, ``images`` reads it, ``page`` renders.
"""
