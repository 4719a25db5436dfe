"""``dcfast evalsets pack DIR --out FILE.tar`` and ``dcfast evalsets unpack FILE.tar --out DIR``: the command lines."""

from __future__ import annotations

import argparse

from dcfast.evaluate.pack_sets import PackOptions, UnpackOptions, pack_sets, unpack_sets
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import say


def pack_parser() -> ArgumentParser:
    """The command line of ``dcfast evalsets pack``."""
    p = ArgumentParser(
        prog="dcfast evalsets pack",
        description="Write evaluation sets as one sealed file, for machines without a network.",
        epilog="The same sets make the same bytes. Docs: docs/evaluation.md.",
    )
    add_options(p, PackOptions)
    return p


def unpack_parser() -> ArgumentParser:
    """The command line of ``dcfast evalsets unpack``."""
    p = ArgumentParser(
        prog="dcfast evalsets unpack",
        description="Put the evaluation sets of such a file in their places; one that was cut or altered is refused.",
        epilog="The same command goes on where it was stopped, set by set. Docs: docs/evaluation.md.",
    )
    add_options(p, UnpackOptions)
    return p


def pack(arguments: argparse.Namespace) -> int:
    """Packs what a command line asks for; returns the exit status."""
    options = made_of(PackOptions, given_options(arguments, PackOptions))
    report = pack_sets(options)
    say(f"{options.out}: {len(report.sets)} sets, {report.files:,} files, {report.size:,} bytes")
    say(f"next: dcfast evalsets unpack {options.out} --out DIR    (on the other machine)")
    return DONE


def unpack(arguments: argparse.Namespace) -> int:
    """Unpacks what a command line asks for; returns the exit status."""
    options = made_of(UnpackOptions, given_options(arguments, UnpackOptions))
    report = unpack_sets(options)
    for sets, words in ((report.made, "unpacked"), (report.kept, "there already")):
        if sets:
            say(f"{words} ({len(sets)}): {', '.join(sets)}")
    say(f"packed by dcfast {report.dcfast}; every file is as it was packed")
    say(f"next: dcfast evaluate --model NAME --checkpoint FILE --evalsets {options.out} --out scores")
    return DONE
