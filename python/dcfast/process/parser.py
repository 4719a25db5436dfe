"""The parser of a command line, whose words may be strangers' too: ``dcfast reshard *`` names what lies there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from dcfast.errors import did_you_mean, printable
from dcfast.process.exit_codes import USAGE

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, which repeats words that it does not understand: here by ``printable``.

    What is wrong is said in a line of its own, and not behind a screen of all options.
    """

    def parse_args(  # type: ignore[override]  # no command has a namespace of its own
        self, args: Sequence[str] | None = None
    ) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(args)
        if unknown:
            options = (flag for action in self.shown_actions() for flag in action.option_strings)
            option = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
            self.error(f"unrecognized arguments: {' '.join(unknown)}{did_you_mean(option, options)}")
        return parsed

    def shown_actions(self) -> list[argparse.Action]:
        """The options and places that the help lists."""
        return [action for action in self._actions if action.help != argparse.SUPPRESS]

    def knows(self, word: str) -> bool:
        """Whether it has an option of this spelling, or a place for a word that is none."""
        if not word.startswith("-"):
            return any(not action.option_strings for action in self._actions)
        return word.partition("=")[0] in self._option_string_actions

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: error: {message}\n{self.prog} --help lists the options\n")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        super()._print_message(printable(message) if message else message, file)
