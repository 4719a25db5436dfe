"""``python -m dcfast.decontamination``: ``dcfast decontaminate POOL --against SIGNATURES... --out DIR``."""

from __future__ import annotations

import sys

from dcfast.decontamination.command import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
