"""The parser of a command line, whose words may be strangers' too: ``dcfast reshard *`` names what lies there."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from dcfast.errors import printable
from dcfast.process.exit_codes import USAGE

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, which repeats words that it does not understand: here by ``printable``.

    What is wrong is said in a line of its own, and not behind a screen of all options.
    """

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: error: {message}\n{self.prog} --help lists the options\n")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        super()._print_message(printable(message) if message else message, file)
