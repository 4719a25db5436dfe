"""What a process owes to its surroundings: an orderly end (``signals``), a bounded read-ahead (``read_ahead``)."""
