"""``python -m dcfast.resharder``: as ``dcfast.resharding``, under the name of DataComp's program."""

import sys

from dcfast.resharding.cli import main

if __name__ == "__main__":
    sys.exit(main())
