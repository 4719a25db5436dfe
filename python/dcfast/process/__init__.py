"""What a process owes to its surroundings: an orderly end (``command``, ``signals``, ``exit_codes``, from its very
``starting`` on), words that no terminal obeys (``terminal``, ``parser``), a bounded read-ahead (``read_ahead``), and to
its callers: checks of what they pass (``arguments``) and of what is installed (``libraries``).
"""
