"""What a process owes to its surroundings: an orderly end (``signals``), a bounded read-ahead (``read_ahead``), and to
its callers: checks of what they pass (``arguments``).
"""
