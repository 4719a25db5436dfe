"""``python -m dcfast.pool_refresh``: as ``dcfast refresh``."""

import sys

from dcfast.index.refresh import main

if __name__ == "__main__":
    sys.exit(main())
