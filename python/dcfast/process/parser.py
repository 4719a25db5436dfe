"""The parser of a command line, whose words may be strangers' too: ``dcfast reshard *`` names what lies there."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from dcfast.errors import printable

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, which repeats words that it does not understand: here by ``printable``."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        super()._print_message(printable(message) if message else message, file)
