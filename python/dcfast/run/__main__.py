"""``python -m dcfast.run``."""

import sys

from dcfast.run.workflow import main

if __name__ == "__main__":
    sys.exit(main())
