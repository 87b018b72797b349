"""What counts as a change of code: what a module or a function means, not how it is written."""

import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from vislib.runs import code
from vislib.runs.code import code_digest, code_reached, source_digest

RULE = '''"""A module."""
import math
from typing import TYPE_CHECKING

from numpy import floor, ceil

if TYPE_CHECKING:
    from vislib.runs import Run

LIMIT: int = 3  # a constant

@property
def rule(x: float, *, scale=2.5, **rest) -> "Run":
    """Say what it does."""
    total = [f"{x!r:>{LIMIT}} and {math.pi}" "tail" for x in range(LIMIT) if x not in (1, 2)]
    return {"a": total, **rest} if x > 0 else lambda y: (y + scale, None, True, b"x", ...)
'''
SAME = {
    "a comment": RULE.replace("LIMIT: int = 3  # a constant", "# why\n\nLIMIT: int = 3"),
    "a docstring": RULE.replace("Say what it does.", "Say it in other words."),
    "no docstring": RULE.replace('    """Say what it does."""\n', "").replace(
        '"""A module."""', ""
    ),
    "imports": RULE.replace("import math\n", "").replace(
        "from numpy import floor, ceil",
        "from numpy import ceil\nfrom numpy import floor\nimport math",
    ),
    "types": RULE.replace("import Run\n", "import Run, choose\n"),
}
OTHER = {
    "a constant": ("LIMIT: int = 3", "LIMIT: int = 4"),
    "an operator": ("x > 0", "x >= 0"),
    "a default": ("scale=2.5", "scale=2"),
    "a text": ("tail", "tails"),
    "another function of that name": ("from numpy import floor", "from math import floor"),
    "a kind of number": ("(1, 2)", "(True, 2)"),
}


@pytest.mark.parametrize("edit", SAME)
def test_how_a_rule_is_written_does_not_count(edit):
    assert SAME[edit] != RULE
    assert source_digest(SAME[edit]) == source_digest(RULE)


@pytest.mark.parametrize("edit", OTHER)
def test_what_a_rule_says_counts(edit):
    assert source_digest(RULE.replace(*OTHER[edit])) != source_digest(RULE)


def test_a_formatter_changes_nothing(tmp_path):
    file = tmp_path / "rule.py"
    file.write_text(RULE)
    config = "[lint]\nselect = ['I']\n"
    (tmp_path / "ruff.toml").write_text(f"line-length = 40\n{config}")
    for command in (["format"], ["check", "--fix", "-q"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, str(file)], check=True)
    assert file.read_text() != RULE
    assert source_digest(file.read_text()) == source_digest(RULE)


def test_a_digest_is_the_same_on_every_version_of_python():
    assert source_digest(RULE) == "c9590ef15111f79c"


def test_names_of_rooms_and_modules_are_those_of_the_library():
    for name in (*code.MACHINERY, *code.ENGINES, *code.STARTS, *code.STARTS.values(), *code.LOOKS):
        assert code._modules(name)[-1][0] == name
    assert all(name.startswith(code.MACHINERY) for name in (*code.ENGINES, *code.STARTS))
    rooms = [name for name in code.MACHINERY if name.count(".") == 1]
    assert all(code._data_version(room) for room in rooms)


ONE = "def f():\n    from vislib.deep import inner\nTABLE = Path(__file__).with_name('one.csv')"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small library of pure code and machinery."""
    for name, text in {
        "__init__.py": "",
        "one.py": ONE,
        "two.py": "'of no stage'",
        "deep/__init__.py": "HERE = __file__",
        "deep/inner.py": "import json, vislib.runs.tables, vislib.engines.replies",
        "deep/words.txt": "template",
        "deep/pages/page.md": "a page",
        "deep/.ipynb_checkpoints/page.md": "JupyterLab's",
        "one.csv": "beside the code",
        "deep/LICENCES.md": "about the words",
        "two.toml": "of the other module",
        "runs/__init__.py": "DATA_VERSION = 4",
        "runs/tables.py": "from vislib import two",
        "engines/__init__.py": "",
        "engines/replies.py": "from vislib.engines import transport",
        "engines/transport.py": "",
    }.items():
        (tmp_path / "vislib" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "vislib" / name).write_text(text)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    return tmp_path / "vislib"


def test_pure_code_is_followed_with_its_files_and_machinery_is_not(library):
    found = code_reached(["vislib.one.f"])
    assert {name.removeprefix("vislib/") for name in found} == {
        "__init__.py",
        "one.py",
        "*",
        "deep/__init__.py",
        "deep/inner.py",
        "deep/*",
        "engines/replies.py",
        "vislib.runs",
        "vislib.engines",
    }
    assert found["vislib.runs"] == "version 4"

    def changed(file: str, text: str) -> set[str]:
        before = (library / file).read_text()
        (library / file).write_text(text)
        now = code_reached(["vislib.one.f"])
        (library / file).write_text(before)
        return {name for name in found if now[name] != found[name]}

    for file in ("deep/words.txt", "deep/pages/page.md"):
        assert changed(file, "another") == {"vislib/deep/*"}
    assert changed("one.csv", "another") == {"vislib/*"}
    for file in (
        "two.py",
        "two.toml",
        "deep/LICENCES.md",
        "deep/.ipynb_checkpoints/page.md",
        "runs/tables.py",
        "engines/transport.py",
    ):
        assert not changed(file, "X = 1")
    assert changed("runs/__init__.py", "DATA_VERSION = 5\n") == {"vislib.runs"}
    assert changed("one.py", f"# a comment\n{ONE}") == set()


def test_what_shows_data_counts_for_a_figure(library):
    (library / "figures").mkdir()
    (library / "figures/__init__.py").write_text("SIZE = 3")
    assert code_reached(["vislib.figures"]) == {
        "vislib.figures": "version 0",
        **code_reached(["vislib"]),
    }
    assert "vislib/figures/__init__.py" in code_reached(["vislib.figures"], looks=True)


CELL = """
import re
from vislib import qa_options
FACTOR = 2
def inner(x):
    return x * FACTOR
def rule(rows, *, least=1):
    for row in rows:
        yield inner(row), qa_options
"""
CELLS = {
    "a comment": (CELL.replace("for row", "# all of them\n    for row"), True),
    "a docstring": (CELL.replace("    for row", "    'Say it.'\n    for row"), True),
    "an unused name": (CELL + "\nOTHER = 3", True),
    "its text": (CELL.replace("inner(row)", "-inner(row)"), False),
    "a function that it calls": (CELL.replace("x *", "x +"), False),
    "a constant of that": (CELL.replace("FACTOR = 2", "FACTOR = 3"), False),
    "a default": (CELL.replace("least=1", "least=2"), False),
    "a module": (CELL.replace("import qa_options", "import sizes as qa_options"), False),
}


def rule_of(cell: str, name: str = "rule"):
    """A function as a notebook's cell makes it."""
    shell = InteractiveShell()
    assert shell.run_cell(cell, store_history=True).success
    return shell.user_ns[name]


@pytest.mark.parametrize("edit", CELLS)
def test_a_function_of_a_cell_is_its_text_and_what_that_names(edit):
    cell, same = CELLS[edit]
    assert (code_digest(rule_of(cell)) == code_digest(rule_of(CELL))) is same


def test_a_function_of_a_cell_without_a_text_is_its_bytecode():
    one, other = (rule_of(f"pair = (lambda x: x + {n}, 1)\nf = pair[0]", "f") for n in (1, 2))
    assert code_digest(one) != code_digest(other)
    looped = "def a(n):\n    return b(n)\ndef b(n):\n    return a(n - 1)"
    assert code_digest(rule_of(looped, "a")) == code_digest(rule_of(looped, "a"))


@dataclass(frozen=True)
class Settings:
    threshold: float
    names: tuple[str, ...] = ()


def test_settings_count_by_their_values():
    def digest(**settings):
        return code_digest(partial(source_digest, **settings))

    base = digest(a=1, b={"x": [1.0, None]}, c=Settings(0.5), d=np.zeros(3), e={"u", "v"})
    again = digest(e={"v", "u"}, d=np.zeros(3), c=Settings(0.5), b={"x": [1.0, None]}, a=1)
    assert again == base
    for changed in ({"a": 2}, {"b": {}}, {"c": Settings(0.6)}, {"d": np.ones(3)}, {"e": {"u"}}):
        given = {
            "a": 1,
            "b": {"x": [1.0, None]},
            "c": Settings(0.5),
            "d": np.zeros(3),
            "e": {"u", "v"},
        }
        assert digest(**{**given, **changed}) != base


def test_a_function_of_the_library_stands_for_its_module_and_what_that_reaches(library):
    rule = eval("lambda: 1", {"__name__": "vislib.one"})
    before = code_digest(rule), code_digest(partial(rule, 1))
    (library / "deep/inner.py").write_text("import json, vislib.runs.tables\nLIMIT = 1")
    assert code_digest(rule) != before[0]
    (library / "deep/inner.py").write_text(
        "import json, vislib.runs.tables, vislib.engines.replies  # why"
    )
    assert code_digest(rule) == before[0] != before[1]
