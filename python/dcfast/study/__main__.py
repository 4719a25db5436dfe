"""``python -m dcfast.study``."""

from __future__ import annotations

import sys

from dcfast.study.command import main

if __name__ == "__main__":
    sys.exit(main())
