"""``python -m dcfast.decontamination``: ``dcfast decontaminate POOL --against SIGNATURES... --out DIR``."""

import sys

from dcfast.decontamination.command import main
from dcfast.decontamination.command import parser as parser

if __name__ == "__main__":
    sys.exit(main())
