"""What code can change the data: one digest a module, blind to comments, docstrings and layout.

Pure code (the papers' steps, media, prompts, labels) is followed through imports, wherever it lies,
with the files that it reads beside itself. Machinery carries rows and answers and never changes
them: it counts by its `DATA_VERSION` alone, which whoever mends a fault in it raises when other
data come out.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from functools import lru_cache, partial
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from vislib.runs.digests import content_hash, folder_facts
from vislib.runs.seeding import short_hash

ROOT = Path(__file__).resolve().parents[2]

# Rooms and modules that are machinery: their imports are not followed.
MACHINERY = (
    "vislib.runs",
    "vislib.engines",
    "vislib.fetching",
    "vislib.figures",
    "vislib.media.display",
    "vislib.training.launch",
)
# Pure modules within them, which decide what is sent and how a reply is read. A stage that asks
# reaches its engine by a parameter and not by import, so it depends on all of these.
ENGINES = (
    "vislib.engines.completions",
    "vislib.engines.extractive",
    "vislib.engines.recorded",
    "vislib.engines.replies",
    "vislib.engines.thoughts",
)
# What machinery starts in a process of its own, where no import leads.
STARTS = {"vislib.training.launch": "vislib.training.worker"}
# A look changes no data, but is all that a figure's notebook makes.
LOOKS = ("vislib.figures", "vislib.media.display")

# Fields of a syntax tree that carry no meaning, or that some versions of Python lack.
_NO_MEANING = {"ctx", "kind", "type_comment"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
MAGIC = re.compile(r"^\s*[%!].*$", re.MULTILINE)


@lru_cache(maxsize=1024)  # the stages of a set reach the same modules
def source_digest(source: str) -> str:
    """Digest of what a source means, equal on every version of Python."""
    tree = parse(source)
    return short_hash(source) if tree is None else short_hash(json.dumps(_form(tree)))


def parse(source: str) -> ast.Module | None:
    """The tree of a module or a cell, its magics left out; None if it is no Python."""
    try:
        return ast.parse(MAGIC.sub("", source))
    except SyntaxError:  # a cell under way; the kernel will say so
        return None


def _form(node: Any) -> Any:
    """A tree as nested lists: class names and fields that hold something."""
    if isinstance(node, list):
        # first and sorted, one name each: how they are grouped is a formatter's matter
        imports: list[Any] = sorted(pair for one in node for pair in _imported_by(one))
        return imports + [_form(one) for one in node if not _is_import(one)]
    if not isinstance(node, ast.AST):
        return repr(node)
    # ast.dump and ast.unparse differ from version to version; names and fields hardly do
    fields = dict(ast.iter_fields(node))
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    meaning = [(n, v) for n, v in fields.items() if n not in _NO_MEANING and v not in (None, [])]
    return [type(node).__name__, *([name, _form(value)] for name, value in meaning)]


def _is_import(node: Any) -> bool:
    """Imports, and blocks of imports that only a type checker reads."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING"
    return isinstance(node, ast.Import | ast.ImportFrom)


def _imported_by(node: Any) -> list[tuple[str, str]]:
    """The names that one import statement binds, and the dotted name behind each."""
    if isinstance(node, ast.Import):
        return [(alias.asname or alias.name.split(".")[0], alias.name) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        return [(alias.asname or alias.name, f"{module}.{alias.name}") for alias in node.names]
    return []


@lru_cache(maxsize=1024)
def imports_of(source: str) -> list[tuple[str, str]]:
    """What a source imports, at any depth: the names that it binds, and what each stands for."""
    found: list[tuple[str, str]] = []
    waiting: list[ast.AST] = [tree] if (tree := parse(source)) else []
    while waiting:
        node = waiting.pop()
        found += _imported_by(node)
        if not _is_import(node):  # nor what only a type checker reads
            waiting += ast.iter_child_nodes(node)
    return found


def code_reached(imports: Iterable[str], *, looks: bool = False) -> dict[str, str]:
    """Digest of every pure module that dotted names lead to, by path; of machinery, its version.

    `looks`: what only shows data counts too, as it does for a figure.
    """
    waiting, found, seen = list(imports), dict[str, str](), set[str]()
    beside: dict[Path, set[Path]] = {}
    while waiting:
        for name, file in _modules(waiting.pop()):
            if name in seen:
                continue
            seen.add(name)
            room = _machinery(name)
            if room and not (looks and room in LOOKS):
                found[room] = f"version {_data_version(room)}"
                waiting += [STARTS[name]] if name in STARTS else []
                continue
            # read each time, since a notebook's user edits; parsed once a text
            source = file.read_text(encoding="utf-8")
            found[str(file.relative_to(ROOT))] = source_digest(source)
            waiting += [dotted for _, dotted in imports_of(source)]
            if read := _files_beside(file, source):
                beside.setdefault(file.parent, set()).update(read)
    for package, files in beside.items():
        digest = content_hash(folder_facts(package, files))
        found[f"{package.relative_to(ROOT)}/*"] = digest[:16]
    return dict(sorted(found.items()))


def _modules(dotted: str) -> list[tuple[str, Path]]:
    """Names and files of this project's modules that the import of a dotted name runs."""
    steps = dotted.split(".")
    found = []
    for depth in range(1, len(steps) + 1):
        stem = ROOT.joinpath(*steps[:depth])
        files = [p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()]
        found += [(".".join(steps[:depth]), file) for file in files]
    return found


def _machinery(name: str) -> str:
    """The room of machinery that a module belongs to, or ''."""
    if name in ENGINES:
        return ""
    # the dot: vislib.runs is a room, vislib.runsheets would be none of it
    return next((room for room in MACHINERY if f"{name}.".startswith(f"{room}.")), "")


def _data_version(room: str) -> int:
    """`DATA_VERSION = 2` in the room's file, read without an import."""
    _, file = _modules(room)[-1]  # of a package, its __init__
    match = re.search(r"^DATA_VERSION = (\d+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return int(match[1]) if match else 0


def _files_beside(module: Path, source: str) -> list[Path]:
    """Files that a module reads beside itself, by `__file__`: of its own name or named in it.

    A package (templates, pages, pictures) reads all that lie below it.
    """
    if "__file__" not in source:
        return []
    whole = module.name == "__init__.py"
    found = list(module.parent.glob("[!.]*"))
    if whole:
        found += module.parent.glob("[!.]*/**/[!.]*")
    # LICENCES.md and the like speak of the files; pages in Markdown are data
    return [
        file
        for file in found
        if file.is_file()
        and file.suffix not in (".py", ".pyc")
        and not (file.suffix == ".md" and file.stem.isupper())
        and (whole or file.stem in f"{module.stem} {source}")
    ]


# ---- the code of a function, as a part's mark holds it


def code_digest(thing: object) -> str:
    """Digest of a function and its settings: another when what it computes may be another.

    A function of this project stands for its module and all pure code that this reaches. One from a
    notebook's cell stands for its text and for what that names: other functions, constants,
    modules. A `functools.partial` adds its settings.
    """
    return short_hash(json.dumps(_describe(thing, set())))


def _describe(thing: Any, seen: set[Any]) -> Any:
    """What a digest holds of any object, as plain lists and texts."""
    if thing is None or isinstance(
        thing, bool | int | float | str | bytes | PurePath | Enum | re.Pattern
    ):
        return repr(thing)
    if isinstance(thing, Mapping):
        return sorted([str(name), _describe(value, seen)] for name, value in thing.items())
    if isinstance(thing, list | tuple):
        return [_describe(value, seen) for value in thing]
    if isinstance(thing, set | frozenset):  # whose order changes from process to process
        return sorted(json.dumps(_describe(value, seen)) for value in thing)
    if isinstance(thing, partial):
        return _describe([thing.func, thing.args, thing.keywords], seen)
    if isinstance(thing, MethodType):
        return _describe([thing.__func__, thing.__self__], seen)
    if isinstance(thing, ModuleType):
        return code_reached([thing.__name__]) or thing.__name__
    if isinstance(thing, FunctionType | type):
        return _describe_code(thing, seen)
    return _describe_object(thing, seen)


def _describe_code(thing: FunctionType | type, seen: set[Any]) -> Any:
    if thing in seen:  # functions that call each other
        return thing.__qualname__
    seen.add(thing)
    if thing.__module__ != "__main__":
        name = f"{thing.__module__}:{thing.__qualname__}"
        # an installed package is told by its name; the record holds its version
        return [name, code_reached([thing.__module__])]
    if isinstance(thing, type):
        return _describe(vars(thing), seen)
    names = _names_in(thing.__code__)
    # names of attributes are among them: one too many costs a part, one too few a wrong one
    outside = {name: thing.__globals__[name] for name in names if name in thing.__globals__}
    inside = [cell.cell_contents for cell in thing.__closure__ or ()]
    settings = [outside, inside, thing.__defaults__, thing.__kwdefaults__]
    return [_text_digest(thing), _describe(settings, seen)]


def _text_digest(function: FunctionType) -> str:
    """Digest of a function's text in its cell, or of its bytecode where no text is kept."""
    try:
        return source_digest(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):
        code = function.__code__
        constants = [c for c in code.co_consts if not isinstance(c, CodeType)]
        return short_hash(code.co_code, repr((code.co_names, constants)))


def _names_in(code: CodeType) -> list[str]:
    """Every name that a function may look up outside itself, also from the functions within it."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return sorted({*code.co_names, *(name for one in inner for name in _names_in(one))})


def _describe_object(thing: Any, seen: set[Any]) -> Any:
    """Data classes by their fields, arrays by their content, other settings by their kind alone."""
    kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
    # anything else (a run, a model, a connection) comes from parameters, which the key holds
    if is_dataclass(thing):
        return _describe([type(thing), vars(thing)], seen)
    if hasattr(thing, "tobytes") and hasattr(thing, "dtype"):
        return [kind, str(thing.dtype), list(thing.shape), short_hash(thing.tobytes())]
    return kind
