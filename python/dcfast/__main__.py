"""``python -m dcfast``: as the console script ``dcfast``."""

import sys

from dcfast.cli import main

if __name__ == "__main__":
    sys.exit(main())
