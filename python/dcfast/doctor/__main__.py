"""``python -m dcfast.doctor``."""

import sys

from dcfast.doctor.command import main

if __name__ == "__main__":
    sys.exit(main())
