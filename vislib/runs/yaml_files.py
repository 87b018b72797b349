"""Parameter files: flat YAML whose traps are errors with their mend, never silently another value.

`1e-5` would be a text, `0123` the number 83, `on` true, and a key given twice would win quietly
(YAML 1.1).
"""

import re
from pathlib import Path
from typing import Any

import yaml

from vislib.runs.errors import InputError

# YAML 1.1 wants a point and a sign: without them what everybody reads as a number is a text
_ALMOST_FLOAT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
# what is the same number in YAML 1.1, in YAML 1.2 and to a reader
_PLAIN_INT = re.compile(r"^[-+]?(0|[1-9]\d*)$")


def read_parameters(file: Path) -> dict[str, Any]:
    """The mapping in `file`. Every trap is an InputError that names file, key, value and mend."""
    try:
        # nodes still know how a value was written, which the values no longer do
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"{file}: not a readable YAML file ({' '.join(str(error).split())})"
        ) from error
    if node is None:  # comments alone: a stage about which nothing was decided
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{file}: must hold lines `name: value`, one a line")
    given: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        if not isinstance(key_node, yaml.ScalarNode):
            raise InputError(
                f"{file}: line {key_node.start_mark.line + 1} has no plain name before its colon"
            )
        # `on: 1` would name the parameter True
        _refuse_trap(key_node, f"{file}: key {key}")
        if key in given:
            raise InputError(
                f"{file}: {key} is given twice (again in line {key_node.start_mark.line + 1});"
                " keep one"
            )
        given[key] = _plain(value_node, f"{file}: {key}")
    return given


def read_value(text: str, place: str) -> Any:
    """One value in flow syntax, as `[a, b]` in a cell of a table; traps are refused here too."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{place}: {text!r} is no YAML value such as [a, b]") from error
    return _plain(node, place) if node else None


def _plain(node: yaml.Node, place: str) -> Any:
    try:
        _refuse_traps(node, place)
        # through text, since a node alone is not constructed by the safe loader's public side
        return yaml.safe_load(yaml.serialize(node))
    except (yaml.YAMLError, RecursionError) as error:  # a tag, or an anchor that holds itself
        raise InputError(
            f"{place} has no plain value ({type(error).__name__}); write it out"
        ) from error


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that look like a number to a reader though not to YAML 1.1."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # else PyYAML would write it plain, and read_parameters refuse what we wrote
    style = "'" if _ALMOST_FLOAT.match(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def write_parameters(file: Path, parameters: dict[str, Any]) -> None:
    """Write a parameter file that papermill's -f and `read_parameters` read back to the same
    values.
    """
    text = yaml.dump(parameters, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    file.write_text(text, encoding="utf-8")


def _refuse_traps(node: yaml.Node, place: str) -> None:
    if isinstance(node, yaml.ScalarNode):
        _refuse_trap(node, place)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_traps(item, place)
    else:
        for key, value in node.value:
            _refuse_traps(key, place)
            _refuse_traps(value, place)


def _refuse_trap(node: yaml.Node, place: str) -> None:
    kind, raw = node.tag.rpartition(":")[2], str(node.value)
    # quotes say that a text was meant, and end all doubt
    quoted = bool(getattr(node, "style", None))
    if kind == "bool" and raw not in ("true", "false"):
        raise InputError(
            f"{place}: {raw} would be read as a truth value; write true or false, or '{raw}' for"
            " the text"
        )
    if kind == "int" and not _PLAIN_INT.match(raw):
        raise InputError(
            f"{place}: {raw} would be read as {_as_int(raw)}; write the plain decimal, or '{raw}'"
            " for the text"
        )
    if kind == "str" and not quoted and _ALMOST_FLOAT.match(raw):
        raise InputError(
            f"{place}: {raw} would be read as a text; write {_with_point(raw)}, or '{raw}' for the"
            " text"
        )
    if kind == "timestamp":
        raise InputError(f'{place}: {raw} would be read as {kind}; write it in quotes: "{raw}"')
    # a merge takes values from elsewhere in the file, while files are flat
    if kind in ("null", "merge"):
        raise InputError(
            f"{place}: {raw or 'nothing'} would be read as {kind}; write a value, '' for an empty"
            " text"
        )


def _as_int(raw: str) -> str:
    return repr(yaml.safe_load(raw))


def _with_point(raw: str) -> str:
    mantissa, exponent = re.split("[eE]", raw)
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{mantissa}e{exponent if exponent[0] in '+-' else '+' + exponent}"
