"""``dcfast assets fetch NAME... | list | verify``: the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dcfast.hub.asset_table import ASSETS, Asset
from dcfast.hub.assets import assets_folder, chosen_assets, fetch_assets, read_assets_lock, verify_assets
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE, FAILED
from dcfast.process.options import add_options, given_options, made_of, one_of, option
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import log_printably, say
from dcfast.storage.paths import path_argument

ACTIONS = ("fetch", "list", "verify")


@dataclass(frozen=True)
class AssetsOptions:
    """What is done, with which assets, and where."""

    words: list[str] = option(
        [],
        "fetch NAME...: fetch assets, by names or patterns (in1k*); list: what there is, for what, under which terms; "
        "verify: compare what is here with its hashes",
        flags=("words",),
        metavar="ACTION",
        gather=list,
    )
    out: str = option(
        "",
        "folder of the assets",
        metavar="DIR",
        parse=path_argument,
        usual="$DCFAST_ASSETS, else dcfast/assets in the user's cache",
    )
    url_base: str = option(
        "", "a mirror, to whose address the file's name is appended", metavar="URL", usual="where each was published"
    )
    convert: bool = option(
        True, "leave files of torch as they are, and make no npy and safetensors", flags=("--no-convert",)
    )
    update_lock: bool = option(False, "of assets whose hash nobody tells, take what is there today")
    quiet: bool = option(False, "no progress")


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser(
        prog="dcfast assets",
        description="Fetch what others publish and filters read (ImageNet's embeddings, cluster centres, the language "
        "model, weights), held to its hashes; pickles of torch become files that hold numbers alone.",
        epilog="The same command goes on after it was stopped. Docs: docs/assets.md.",
    )
    add_options(p, AssetsOptions)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``dcfast assets``; returns the exit status."""
    arguments = parser().parse_args(argv)
    return run_command(lambda: _main(arguments), "stopped; the same command goes on")


def _main(arguments: argparse.Namespace) -> int:
    log_printably()
    options = made_of(AssetsOptions, given_options(arguments, AssetsOptions))
    action, *names = options.words
    one_of("the first word", action, ACTIONS)
    folder = Path(options.out) if options.out else assets_folder()
    if action == "fetch":
        return _fetch(names, folder, options)
    return (_list if action == "list" else _verify)(names or ["*"], folder)


def _fetch(names: Sequence[str], folder: Path, options: AssetsOptions) -> int:
    if not names:
        raise ValueError(
            "expected names of assets behind fetch (`dcfast assets list` shows them, '*' is all); got none"
        )
    made = fetch_assets(
        names,
        folder,
        url_base=options.url_base,
        convert=options.convert,
        update_lock=options.update_lock,
        say=(lambda line: None) if options.quiet else partial(say, error=True),
    )
    say("\n".join(map(str, made)))
    return DONE


def _list(names: Sequence[str], folder: Path) -> int:
    lock = read_assets_lock(folder)
    say(f"in {folder}:")
    for asset in chosen_assets(names):
        is_here = (folder / asset.file).is_file()
        state = (
            "here"
            if is_here and asset.name in lock.assets
            else "here, not fetched by dcfast"
            if is_here
            else "not here"
        )
        say("\n".join(_shown(asset, state)))
    return DONE


def _shown(asset: Asset, state: str) -> list[str]:
    made = f", becomes {asset.converted}" if asset.converted else ""
    return [
        f"{asset.name} ({state})",
        f"  for: {asset.use}",
        f"  terms: {asset.terms}",
        f"  from: {asset.url}{made}",
        f"  SHA-256: {asset.sha256 or 'nobody tells one'}",
    ]


def _verify(names: Sequence[str], folder: Path) -> int:
    found = verify_assets(names, folder)
    for name, problem in found.items():
        say(f"{name}: {problem or 'as it must be'}")
    if not found:
        say(f"none of {len(ASSETS)} assets is in {folder}")
    return FAILED if any(found.values()) else DONE
