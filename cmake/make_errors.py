"""Writes docs/errors.md: what a command can say when it fails, with its exit status and what to do.

    python cmake/make_errors.py [FILE]

The messages are read off the source: every construction of an error class of dcfast, of ValueError, TypeError and the
OSErrors that carry words of ours, directly or by a function that makes one; of the core, every ``throw Error``. What a
message puts in (a path, a number) is shown as ``…``. What to do is the part of the message that says it; where a
message says none, its class does (``BY_CLASS``), which is only for classes whose cause is always mended alike.
Cost: two seconds.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOLE = "…"
OWN = (
    "PoolError",
    "EvalsetError",
    "SubsetError",
    "TooFewKeptError",
    "FilterError",
    "CheckpointError",
    "RunError",
    "HubError",
    "NonFiniteLossError",
)
STATUS = {
    **dict.fromkeys((*OWN, "CorruptDataError", "MissingDependencyError", "PeerLostError"), 1),
    **dict.fromkeys(("OSError", "FileNotFoundError", "IsADirectoryError", "NotADirectoryError", "FileExistsError"), 1),
    "NothingKeptError": 3,
    **dict.fromkeys(("PermissionError", "BlockingIOError"), 1),
    **dict.fromkeys(("ValueError", "TypeError", "ArgumentTypeError"), 2),
}
"""Class -> exit status. Others (RuntimeError, LookupError, ...) are caught within dcfast, or not foreseen."""
PEER_LOST = 75
BY_CLASS = {
    "CorruptDataError": "the bytes are not what their format says: fetch or make the file again, or leave it out",
    "EvalsetError": "mend the set's files (docs/evaluation.md says what each holds), or move its folder out of the "
    "directory: the other sets are scored all the same",
    "FilterError": "mend the expression where ^ points: docs/filters.md has the language",
    "MissingDependencyError": "the message ends with what installs it; `dcfast doctor` lists all that is missing",
    "NonFiniteLossError": "look at the samples that the message names, at the learning rate and the precision",
    "NothingKeptError": "the message names the rule that dropped the most, and ends with what to do",
    "PeerLostError": "look at what the other rank said; the same command goes on from the latest checkpoint",
}
"""What to do, of classes for which it is always the same, and ``report`` or the class itself shows where."""
SAID = {"cli": "ArgumentTypeError"}
"""File that prints an error itself -> the class that it would be of; of others, an evaluation set's."""
BY_CORE = {
    "CorruptDataError": BY_CLASS["CorruptDataError"],
    "ValueError": "give the array or number that the message says is expected; from a command, report it",
    "OSError": "look at the file that the message names, and at the room and the memory of the machine",
}
CORE = "the core, "
FRAGMENTS = ("images", "index", "models", "storage")
"""Wings whose ValueErrors are the reasons within a message that names the file, or arguments of the core's own."""
CORE_CODES = {"corrupt_data": "CorruptDataError", "invalid_argument": "ValueError"}  # else OSError

_VERBS = (
    "add ask begin bring build call check choose close compare complete compute convert copy cut decode "
    "delete download drop either end evaluate export feed fetch fewer free get give index insist install "
    "join keep leave less let load look lower make map mend more mount move name open pass pip point put "
    "raise read refresh remove rename render repair replace restore return run save say see set shorten "
    "show split start swap switch take tell train try turn unpack update use wait write "
)
_OPENERS = "|".join(f"[{verb[0].upper()}{verb[0]}]{verb[1:]}" for verb in _VERBS.split())
_ADVICE = re.compile(
    r"(?:^|[;:.?(,] |, (?:or|and) |… )"
    r"(?:(?:or|and|then|first|instead|else|with [^ ]+ [0-9a-z]+|to [a-z ]{3,30}:?|for [a-z ]{3,40}) )?"
    rf"(?:did you mean|[Tt]he same command|expected|Is |Was |Were |Uids can be|docs/|apt-get |{_OPENERS})\b"
)
_EXPECTED = re.compile(
    r"\b(?:must(?: not)?|needs?|takes?|expects?|expected|wants?|is for|are for|should|at (?:most|least)|only|alone|"
    r"can(?:not|(?= be))|has to|have to|want)\b"
)


@dataclass(frozen=True)
class Message:
    """A message: the wing that says it, its class, its words, and the part of them that says what to do."""

    wing: str
    kind: str
    text: str
    advice: str


# --- words of Python ------------------------------------------------------------------------------


class Module:
    """A file: its functions by name, for messages that are put together elsewhere in it."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self.path, self.tree = path, tree
        self.functions = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        self.constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }


def words(node: ast.expr, module: Module, scope: dict[str, ast.expr], depth: int = 0) -> str:
    """An expression as text: its literal parts, and a hole for all else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(words(part, module, scope, depth) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        inner = node.value
        plain = node.conversion == -1 and node.format_spec is None
        return words(inner, module, scope, depth) if plain else HOLE
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return words(node.left, module, scope, depth) + words(node.right, module, scope, depth)
    if isinstance(node, ast.IfExp):
        parts = [words(each, module, scope, depth) for each in (node.body, node.orelse)]
        return max(parts, key=len)
    if isinstance(node, ast.Name) and depth < 3:
        value = scope.get(node.id) or module.constants.get(node.id)
        return words(value, module, scope, depth + 1) if value is not None else HOLE
    if isinstance(node, ast.BoolOp):
        return words(node.values[0], module, scope, depth)
    if isinstance(node, ast.Call) and called(node) == "did_you_mean":
        return f"; did you mean {HOLE}?"
    if isinstance(node, ast.Call) and depth < 3 and isinstance(node.func, ast.Name):
        made = module.functions.get(node.func.id)
        if made is not None:
            returned = [n.value for n in ast.walk(made) if isinstance(n, ast.Return) and n.value is not None]
            inner_scope = assigned(made) | {
                arg.arg: given for arg, given in zip(made.args.args, node.args, strict=False)
            }
            texts = [words(each, module, inner_scope, depth + 1) for each in returned]
            return max(texts, key=len, default=HOLE)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        table = module.constants.get(node.value.id)
        if isinstance(table, ast.Dict):
            return max((words(each, module, scope, depth) for each in table.values), key=len)
    return HOLE


def assigned(function: ast.FunctionDef) -> dict[str, ast.expr]:
    """Names that a function gives texts to; of several, the longest."""
    found: dict[str, ast.expr] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            is_hint = isinstance(node.value, (ast.Call, ast.BoolOp)) and "did_you_mean(" in ast.unparse(node.value)
            if is_hint or isinstance(node.value, (ast.JoinedStr, ast.Constant, ast.BinOp, ast.IfExp)):
                old = found.get(name)
                if old is None or len(ast.unparse(node.value)) > len(ast.unparse(old)):
                    found[name] = node.value
    return found


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def makers(modules: list[Module]) -> dict[str, tuple[Module, ast.FunctionDef, str, ast.Call]]:
    """Functions that make an error of a text they are given: name -> where, and the construction."""
    found = {}
    for module in modules:
        for function in module.functions.values():
            if function.name == "__init__":
                continue
            names = {arg.arg for arg in (*function.args.args, *function.args.kwonlyargs)}
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and called(node) in STATUS and node.args:
                    used = {n.id for n in ast.walk(node.args[0]) if isinstance(n, ast.Name)}
                    if used & names & {"message", "problem", "why", "what", "words", "text", "reason", "detail"}:
                        found[function.name] = (module, function, called(node), node)
    return found


def of_python(modules: list[Module]) -> Iterator[tuple[Path, str, str]]:
    """(file, class, words) of every message."""
    made_by = makers(modules)
    for module in modules:
        own = [n for n in ast.walk(module.tree) if isinstance(n, ast.FunctionDef)]
        scopes: dict[int, dict[str, ast.expr]] = {}
        for outer in own:
            scopes |= dict.fromkeys(map(id, ast.walk(outer)), assigned(outer))
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            scope = scopes.get(id(node), {})
            name = called(node)
            of_parser = module.path.parts[-2:] == ("process", "parser.py")
            if (
                name == "error"
                and isinstance(node.func, ast.Attribute)
                and (of_parser or ast.unparse(node.func.value) == "p")
            ):
                name = "ArgumentTypeError"  # a parser of the command line refuses
            said = words(node.args[0], module, scope)
            if name == "say" and said.startswith("error: ") and module.path.name != "command.py":
                yield module.path, SAID.get(module.path.stem, "EvalsetError"), said.removeprefix("error: ")
            elif name in STATUS:
                place = next(
                    (i for i in range(min(2, len(node.args))) if words(node.args[i], module, scope) != HOLE), 0
                )
                yield module.path, name, words(node.args[place], module, scope)
            elif name in made_by:
                where, function, kind, construction = made_by[name]
                parameters = [a.arg for a in function.args.args if a.arg not in ("self", "cls")]
                bound = dict(zip(parameters, node.args, strict=False))
                bound |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
                literal = {key: ast.Constant(words(value, module, scope)) for key, value in bound.items()}
                yield module.path, kind, words(construction.args[0], where, assigned(function) | literal)


# --- words of the core ----------------------------------------------------------------------------


def of_core(path: Path) -> Iterator[tuple[str, str]]:
    """(class, words) of every ``throw Error`` and ``refuse_argument`` of a C++ file."""
    source = path.read_text(encoding="utf-8")
    for match in re.finditer(r"throw Error\(\s*Code::(\w+)\s*,|(?<!void )refuse_argument\(", source):
        depth, end = 1, match.end()
        while depth:
            if source[end] == '"':
                end = re.compile(r'"(?:[^"\\]|\\.)*"').match(source, end).end()  # type: ignore[union-attr]
                continue
            depth += {"(": 1, ")": -1}.get(source[end], 0)
            end += 1
        parts = re.split(r'"((?:[^"\\]|\\.)*)"', source[match.end() : end - 1])
        text = "".join(part if i % 2 else (HOLE if re.search(r"\w", part) else "") for i, part in enumerate(parts))
        text = re.sub(rf"^{HOLE}(?=\w)|{HOLE}$", "", text).replace('\\"', '"')
        yield CORE_CODES.get(match[1] or "invalid_argument", "OSError"), text


# --- the table ------------------------------------------------------------------------------------


def advice_in(text: str) -> str:
    """The part of a message that says what to do, from where it begins; empty where there is none."""
    match = _ADVICE.search(text)
    if match is None:
        return ""
    return re.sub(r"^[^\w`'…-]+", "", text[match.start() :]).strip()


def _of_class(wing: str, kind: str, text: str) -> str:
    if kind == "ValueError" and wing in FRAGMENTS and not _EXPECTED.search(text):
        return BY_CLASS["CorruptDataError"]
    if wing.startswith(CORE) and kind in BY_CORE:
        return BY_CORE[kind]
    if kind in ("ValueError", "TypeError", "ArgumentTypeError"):
        return re.split(r"; got|, not ", text)[0] if _EXPECTED.search(text) else ""
    return BY_CLASS.get(kind, "")


def tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(rf"{HOLE}(?:[ ,]*{HOLE})+", HOLE, text)


def messages(root: Path = ROOT) -> list[Message]:
    """Every message with words of its own, once a wing."""
    package = root / "python/dcfast"
    paths = [path for path in sorted(package.rglob("*.py")) if "kernels" not in path.parts]
    modules = [Module(path, ast.parse(path.read_bytes(), str(path))) for path in paths]
    found = [
        (path.relative_to(package).parts[0].removesuffix(".py"), kind, text) for path, kind, text in of_python(modules)
    ]
    for path in sorted((root / "csrc/core").rglob("*.[ch]pp")):
        found += [(f"{CORE}{path.parent.name}", kind, text) for kind, text in of_core(path)]
    seen: dict[tuple[str, str], Message] = {}
    for wing, kind, text in found:
        text = tidy(text)
        if len(re.findall(r"[A-Za-z]{2,}", text)) < 2:
            continue  # another error's words, handed on
        advice = advice_in(text)
        if not advice:
            advice = _of_class(wing, kind, text)
        seen.setdefault((wing, text), Message(wing, kind, text, advice))
    return sorted(seen.values(), key=lambda m: (m.wing, m.kind, m.text))


HEAD = """# Messages of a command that fails

Written by `make stubs` (`cmake/make_errors.py`) from the source; a test compares it. `…` stands for what a message puts
in: a path, a number, another error's words. A message is one line on standard error after `error: `; what it says to do
stands in it, mostly at its end, and again in the last column. Where a message says none, the last column does.

| status | meaning |
|---|---|
{codes}

Not in the tables are errors that dcfast did not foresee: their line names the class and the file with the traceback.
What to do about those whose cause is known:

| class | what to do |
|---|---|
{hints}
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_").replace("`", "'")


def text(listed: list[Message]) -> str:
    """All of the file."""
    from dcfast.process.command import HINTS
    from dcfast.process.exit_codes import MEANINGS

    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in MEANINGS.items())
    hints = "\n".join(f"| {name} | {what} |" for name, what in HINTS.items())
    lines = [HEAD.format(codes=codes, hints=hints)]
    wing = ""
    for message in listed:
        if message.wing != wing:
            wing = message.wing
            lines += [f"## {wing}", "", "| message | class | status | what to do |", "|---|---|---|---|"]
        status = PEER_LOST if message.kind == "PeerLostError" else STATUS[message.kind]
        lines.append(f"| {_cell(message.text)} | {message.kind} | {status} | {_cell(message.advice)} |")
    blank = [f"\n{line}" if line.startswith("## ") else line for line in lines]
    return "\n".join(blank) + "\n"


def main(arguments: list[str]) -> int:
    listed = messages()
    path = Path(arguments[0]) if arguments else ROOT / "docs/errors.md"
    path.write_text(text(listed), encoding="utf-8")
    lacking = [message for message in listed if not message.advice]
    for message in lacking:
        print(f"{message.wing}, {message.kind}: says not what to do: {message.text}", file=sys.stderr)
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
