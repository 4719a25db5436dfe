"""A run directory: its settings, what lies where in it (``layout``), what stages recorded (``summaries``), result
tables, and branches that share what a base run made.
"""
