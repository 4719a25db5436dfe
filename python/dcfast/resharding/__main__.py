"""``python -m dcfast.resharding``."""

import sys

from dcfast.resharding.cli import main

if __name__ == "__main__":
    sys.exit(main())
