"""Files of ``--config``: options by their names, in JSON, TOML or YAML; or a run's ``manifest.json``."""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import os
import tomllib
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from dcfast.errors import CorruptDataError, first_line
from dcfast.process.libraries import require_library
from dcfast.process.options import given_options, option_names, option_parsers
from dcfast.storage.inputs import read_input
from dcfast.storage.json_files import read_json
from dcfast.storage.paths import path_argument

__all__ = ["Config", "add_config", "config_of", "config_values", "given_and_config", "manifest_version", "read_config"]

MOST_MANIFEST_BYTES = 64 << 20  # it holds what all stages recorded
MOST_CONFIG_BYTES = 16 << 10
"""Of TOML and YAML, whose readers take the square of a line's length."""


@dataclass(frozen=True)
class Config:
    """A file of options.

    Attributes:
        options: name -> value, as they stand in the file.
        manifest: all of a manifest, of which ``options`` are the settings; else None.
    """

    path: str
    options: dict[str, Any]
    manifest: dict[str, Any] | None = None


def read_config(path: str | os.PathLike[str]) -> Config:
    """Reads a file of options: by its name TOML or YAML, else JSON; of a manifest its settings.

    Raises:
        CorruptDataError: it cannot be read as that, or is no table of options; names it.   OSError: it is not there.
        MissingDependencyError: YAML without PyYAML.
    """
    name, kind = os.fspath(path), Path(path).suffix.lower()
    if kind == ".toml":
        found = _parsed(name, lambda text: tomllib.loads(text))
    elif kind in (".yaml", ".yml"):
        require_library("yaml", f"--config {name}", "pip install pyyaml, or write it as TOML")
        import yaml

        found = _parsed(name, _plain_yaml(yaml))
    else:
        found = read_json(path, "config file", most=MOST_MANIFEST_BYTES, names=True)
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise CorruptDataError(
            f"config file {name}: expected options by name (seed: 1); got a {type(found).__name__}", path=name
        )
    settings = found.get("settings")
    if isinstance(settings, dict) and "versions" in found:
        return Config(name, settings, found)
    return Config(name, found)


def add_config(parser: argparse.ArgumentParser, *, manifests: bool = False) -> None:
    """Adds ``--config FILE`` to a command line; ``manifests``: which takes that of a run."""
    other = ", or a run's manifest.json" if manifests else ""
    parser.add_argument(
        "--config",
        type=path_argument,
        metavar="FILE",
        help=f"options by their names (seed, samples_seen) in JSON, TOML or YAML{other}; those of the command line win",
    )


def config_of(arguments: argparse.Namespace) -> Config | None:
    """The file that a command line names, read; None where it names none."""
    return None if arguments.config is None else read_config(arguments.config)


def given_and_config(arguments: argparse.Namespace, *kinds: type) -> dict[str, Any]:
    """Name -> value of the options of some dataclasses that a command line gives, over those of its ``--config``."""
    given: dict[str, Any] = {}
    for kind in kinds:
        given |= given_options(arguments, kind)
    config = config_of(arguments)
    return given if config is None else {**config_values(config, *kinds), **given}


def _plain_yaml(yaml: Any) -> Any:
    def load(text: str) -> Any:
        # an alias makes a file of some lines as large as it likes
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
            raise ValueError("aliases (*name) are not read")
        return yaml.safe_load(text)

    return load


def _parsed(name: str, parse: Any) -> Any:
    data = read_input(name, MOST_CONFIG_BYTES)
    try:
        return parse(data.decode("utf-8"))
    except Exception as error:
        raise CorruptDataError(f"config file {name}: {first_line(error)}", path=name) from error


def config_values(config: Config, *kinds: type) -> dict[str, Any]:
    """Name -> value of a file's options, which are those of some dataclasses.

    Raises:
        ValueError: a name that is none of theirs, with the nearest; a value of another type. Names file and option.
    """
    hints: dict[str, Any] = {}
    parses: dict[str, Callable[[str], Any]] = {}
    for kind in kinds:
        known = typing.get_type_hints(kind)
        hints |= {f.name: known[f.name] for f in fields(kind) if f.name in option_names(kind)}
        parses |= {name: parse for name, parse in option_parsers(kind).items() if parse is not None}
    of_program = {f.name for kind in kinds for f in fields(kind)} - hints.keys()
    found: dict[str, Any] = {}
    for name, value in config.options.items():
        if name in of_program and config.manifest is not None:  # it holds all there is
            continue
        if name not in hints:
            raise ValueError(f"config file {config.path}: {_unknown(name, list(hints))}{_other_version(config)}")
        try:
            found[name] = msgspec.convert(value, hints[name])
            parse = parses.get(name)
            if parse is not None and isinstance(value, str):  # a path, with its ~
                found[name] = parse(value)
        except (msgspec.ValidationError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"config file {config.path}: {name}: {error}; got {str(value)[:200]!r}") from None
    return found


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
    return f"no option {name!r}{hint}"


def _other_version(config: Config) -> str:
    theirs, ours = manifest_version(config), importlib.metadata.version("dcfast")
    return f" (the manifest is of dcfast {theirs}; this is {ours})" if theirs not in (None, ours) else ""


def manifest_version(config: Config) -> str | None:
    """The version of dcfast that wrote a manifest; None where it does not say, or is none."""
    versions = (config.manifest or {}).get("versions")
    found = versions.get("dcfast") if isinstance(versions, dict) else None
    return found if isinstance(found, str) else None
