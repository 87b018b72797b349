"""The parameters cell is the schema: read with `ast`, never executed, and held against what a run
is given.

A line reads `max_tokens: int = 2000  # text tokens a document may have [1..1000000]`. Brackets that
end the help say what is allowed: a range, choices `[a|b]`, `[input]` (a table `STAGE/TABLE` or an
outside path), `[model]` (the name of an installed model, a hub id with an optional @revision, or a
path), `[throughput]` (speed, never data), `[env NAME]` (an empty text takes the value of that
environment variable, before the stage is keyed).
"""

import ast
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vislib.runs.errors import InputError
from vislib.runs.redaction import SECRET_NAME, redact
from vislib.runs.yaml_files import read_value

# Papermill reads a cell line by line and drops a name whose line holds a further = or #: its -p and
# -f would then leave that parameter as it stands. Such lines are refused here.
_LINE = re.compile(
    r"^(?P<name>\w+): (?P<type>int|float|str|bool|list|dict) = (?P<value>[^=#]*?)\s*(?:#"
    r" (?P<help>[^=#]*))?$"
)
# from the end on, one at a time: a help text may hold brackets of its own before them
_BRACKET = re.compile(r"\s*\[([^\[\]]+)\]$")
_TYPES: dict[str, type] = {kind.__name__: kind for kind in (int, float, str, bool, list, dict)}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One line of a parameters cell. `low`/`high` are inclusive; `choices` are the allowed
    texts.
    """

    name: str
    type: str
    default: Any
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()

    def check(self, value: Any, place: str) -> None:
        """Raise InputError, naming `place`, unless `value` has this parameter's type and lies
        within its bounds.
        """
        # an int does for a float, as 1 is written for 1.0; True is of another type than 1
        kinds = (float, int) if self.type == "float" else (_TYPES[self.type],)
        fits = type(value) in kinds
        # so written that nan, which compares with nothing, is refused too
        if self.type in ("int", "float"):
            fits = fits and self.low <= value <= self.high
        # choices and paths of a list are those of its entries
        items = value if isinstance(value, list) else [value]
        if self.choices:
            fits = fits and all(item in self.choices for item in items)
        if self.flags & {"input", "model"}:
            fits = fits and all(isinstance(item, str) for item in items)
        if not fits:
            raise InputError(
                f"{place}: {self.name} is {value!r} ({type(value).__name__}); {self._allowed()}"
            )

    def read(self, text: str, place: str) -> Any:
        """The value in a cell of a table. This parameter's type decides how the cell is read, so
        that `1e-5`, `TRUE` and `0123` mean what a spreadsheet means by them.
        """
        value: Any = text
        if self.type in ("int", "float"):
            # what is no number stays a text, and the check below says what would be one
            with suppress(ValueError):
                value = _TYPES[self.type](text)
        elif self.type == "bool":
            value = {"true": True, "false": False}.get(text.lower(), text)
        elif self.type != "str":
            value = read_value(text, f"{place}: {self.name}")
        elif text in ("''", '""'):  # an empty cell is the shared value, an empty text is quoted
            value = ""
        self.check(value, place)
        return value

    def _allowed(self) -> str:
        # 16 digits: whole numbers are written as such
        bounds = f" within [{self.low:.16g}..{self.high:.16g}]" if self.low > -math.inf else ""
        options = f" out of {', '.join(self.choices)}" if self.choices else ""
        texts = "; every entry must be a text" if self.flags & {"input", "model"} else ""
        return f"allowed: {self.type}{bounds}{options} ({self.help}){texts}"


Schema = dict[str, Parameter]


def parameters_source(notebook: Path) -> str:
    """Source of the one cell tagged `parameters`."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{notebook}: not a readable notebook ({error})") from error
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise InputError(
            f"{notebook}: {len(tagged)} cells are tagged `parameters`; exactly one must be"
        )
    return "".join(tagged[0]["source"])


def read_schema(notebook: Path) -> Schema:
    """The parameters that a notebook takes, in order, from its parameters cell."""
    schema: Schema = {}
    for number, line in enumerate(parameters_source(notebook).splitlines(), start=1):
        if line.strip():
            parameter = _read_line(line, f"{notebook.name}, parameters cell, line {number}")
            schema[parameter.name] = parameter
    # the runner says by these where the stage works
    for name in ("run_dir", "variant"):
        if name not in schema:
            raise InputError(f"{notebook}: its parameters cell lacks `{name}`")
    return schema


def _read_line(line: str, place: str) -> Parameter:
    match = _LINE.match(line)
    if not match:
        raise InputError(
            f"{place}: {line!r} is not `name: type = literal  # help` on one line without further ="
            " or #"
        )
    help_text, flags, choices, low, high = match["help"] or "", set(), (), -math.inf, math.inf
    while bracket := _BRACKET.search(help_text):
        help_text, inside = help_text[: bracket.start()], bracket[1]
        if inside in ("input", "model", "throughput") or inside.startswith("env "):
            flags.add(inside)
        elif ".." in inside:
            low, high = (float(bound) for bound in inside.split(".."))
        else:
            choices = tuple(inside.split("|"))
    # a literal can be read without running the notebook, and papermill can write it back
    try:
        default = ast.literal_eval(match["value"])
    except (ValueError, SyntaxError) as error:
        raise InputError(f"{place}: the value {match['value']!r} is not a literal") from error
    parameter = Parameter(
        name=match["name"],
        type=match["type"],
        default=default,
        help=help_text.strip(),
        low=low,
        high=high,
        choices=choices,
        flags=frozenset(flags),
    )
    # a default outside its own bounds is a fault of the notebook, found before any set meets it
    check_values({parameter.name: parameter}, {parameter.name: default}, place)
    return parameter


def refuse_unknown(name: str, allowed: Iterable[str], place: str) -> None:
    """Refuse a name that is not `allowed`."""
    if name not in allowed:
        raise InputError(f"{place}: unknown parameter {name!r}; allowed: {', '.join(allowed)}")


def check_values(schema: Schema, given: Mapping[str, Any], place: str) -> None:
    """Refuse unknown names, secrets and values that do not fit."""
    for name, value in given.items():
        # parameters are kept in params.yaml, run.json and the executed notebook
        if isinstance(value, str) and SECRET_NAME.search(name):
            raise InputError(
                f"{place}: {name} would hold a secret; set it in the environment instead"
            )
        refuse_unknown(name, schema, place)
        schema[name].check(value, place)


def resolve(schema: Schema, given: Mapping[str, Any], place: str) -> dict[str, Any]:
    """All parameters: what is `given`, else the defaults; unknown names and bad values are
    InputErrors.
    """
    check_values(schema, given, place)
    values = {}
    for name, parameter in schema.items():
        value = given.get(name, parameter.default)
        # where a server is belongs to a machine, not to a set; what a file says still wins
        for flag in parameter.flags:
            if flag.startswith("env ") and not value:
                value = os.environ.get(flag.removeprefix("env "), value)
        # a secret may be pasted under any name, or come within an address from the environment
        if (shown := redact(str(value))) != str(value):
            raise InputError(
                f"{place}: {name} holds a secret of the environment ({shown[:200]}); leave it out"
            )
        # 0 and 0.0 must give one key
        values[name] = float(value) if parameter.type == "float" else value
    return values
