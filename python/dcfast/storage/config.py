"""Files of ``--config``: options by their names, in JSON, TOML or YAML; or a run's ``manifest.json``."""

from __future__ import annotations

import argparse
import importlib.metadata
import tomllib
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType

import msgspec

from dcfast.errors import CorruptDataError, did_you_mean, first_line
from dcfast.process.libraries import require_library
from dcfast.process.options import given_options, option_names, option_parsers
from dcfast.storage.inputs import StrPath, read_input
from dcfast.storage.json_files import Json, read_json
from dcfast.storage.paths import path_argument

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

    path: StrPath
    options: dict[str, Json]
    manifest: dict[str, Json] | None = None


def read_config(path: StrPath) -> Config:
    """Reads a file of options: by its name TOML or YAML, else JSON; of a manifest its settings.

    CorruptDataError: it cannot be read as that, or is no table of options; names it.   OSError: it is not there.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".toml":
        table = _parsed(path, tomllib.loads)
    elif suffix in (".yaml", ".yml"):
        require_library("yaml", f"--config {path}", "pip install pyyaml, or write it as TOML")
        table = _parsed(path, _load_yaml)
    else:
        table = read_json(path, "config file", most=MOST_MANIFEST_BYTES, names=True)
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise CorruptDataError(
            f"config file {path}: expected options by name (seed: 1); got a {type(table).__name__}", path=path
        )
    settings = table.get("settings")
    if isinstance(settings, dict) and "versions" in table:
        return Config(path, settings, table)
    return Config(path, table)


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


def given_and_config(arguments: argparse.Namespace, *kinds: type) -> dict[str, Json]:
    """Name -> value of the options of some dataclasses that a command line gives, over those of its ``--config``."""
    given: dict[str, Json] = {}
    for kind in kinds:
        given |= given_options(arguments, kind)
    config = config_of(arguments)
    return given if config is None else {**config_values(config, *kinds), **given}


def _load_yaml(text: str) -> object:
    import yaml

    # an alias makes a file of some lines as large as it likes
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
        raise ValueError("aliases (*name) are not read")
    return yaml.safe_load(text)


def _parsed(path: StrPath, parse: Callable[[str], object]) -> object:
    data = read_input(path, MOST_CONFIG_BYTES)
    try:
        return parse(data.decode("utf-8"))
    except Exception as error:
        raise CorruptDataError(f"config file {path}: {first_line(error)}", path=path) from error


def config_values(config: Config, *kinds: type) -> dict[str, Json]:
    """Name -> value of a file's options, which are those of some dataclasses.

    ValueError: a name that is none of theirs, with the nearest; a value of another type. Names file and option.
    """
    types: dict[str, type | UnionType] = {}
    parsers: dict[str, Callable[[str], object] | None] = {}
    for kind in kinds:
        hints = typing.get_type_hints(kind)
        types |= {name: hints[name] for name in option_names(kind)}
        parsers |= option_parsers(kind)
    of_program = {f.name for kind in kinds for f in fields(kind)} - types.keys()
    values: dict[str, Json] = {}
    for name, value in config.options.items():
        if name in of_program and config.manifest is not None:  # it holds all there is
            continue
        if name not in types:
            raise ValueError(f"config file {config.path}: {unknown_option(name, list(types))}{_other_version(config)}")
        try:
            parse = parsers.get(name)
            given = parse(value) if parse is not None and isinstance(value, str) else value  # a path, with its ~
            values[name] = msgspec.convert(given, types[name])
        except (msgspec.ValidationError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"config file {config.path}: {name}: {error}; got {str(value)[:200]!r}") from None
    return values


def unknown_option(name: str, known: Sequence[str]) -> str:
    """That there is no such option, with the nearest that there is."""
    hint = did_you_mean(name.replace("-", "_"), known)
    return f"no option {name!r}{hint or '; there are ' + ', '.join(known)}"


def _other_version(config: Config) -> str:
    """What is to be said where another version of dcfast wrote a manifest."""
    versions, ours = (config.manifest or {}).get("versions"), importlib.metadata.version("dcfast")
    theirs = versions.get("dcfast") if isinstance(versions, dict) else None
    is_other = isinstance(theirs, str) and theirs != ours
    return f" (the manifest is of dcfast {theirs}; this is {ours})" if is_other else ""
