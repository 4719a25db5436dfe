"""``dcfast evalsets sign SETS --out FILE``: the command line."""

from __future__ import annotations

import argparse

from dcfast.dedup.signature_file import SignedSet
from dcfast.evaluate.sign_sets import SignOptions, sign_evalsets
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import say


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser(
        prog="dcfast evalsets sign",
        description="Write hashes and descriptors of evaluation sets to a file, by which their pictures are found in a "
        "pool without the sets.",
        epilog="The same command goes on where it was stopped, set by set. Docs: docs/decontaminate.md.",
    )
    add_options(p, SignOptions)
    return p


def run(arguments: argparse.Namespace) -> int:
    """Does what a command line asks for; returns the exit status."""
    options = made_of(SignOptions, given_options(arguments, SignOptions))
    say("\n".join(_lines(options, sign_evalsets(options))))
    return DONE


def _lines(options: SignOptions, signed: list[SignedSet]) -> list[str]:
    return [
        *(
            f"{one.name}: {one.pictures:,} pictures, {one.unreadable:,} unreadable, {one.flat:,} flat; fingerprint "
            f"{one.fingerprint[:16]}"
            for one in signed
        ),
        *(
            f"note: {one.name}: {file} {message}; pictures of it may be missing"
            for one in signed
            for file, message in one.damage
        ),
        f"next: dcfast decontaminate POOL --against {options.out} --out found",
    ]
