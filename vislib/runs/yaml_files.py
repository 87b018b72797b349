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
        loader = _Loader(file.read_text(encoding="utf-8"))
        node = loader.get_single_node()
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
        # `on: 1` would name the parameter True
        key = str(loader.read(key_node, f"{file}: key {key_node.value}"))
        if key in given:
            raise InputError(
                f"{file}: {key} is given twice (again in line {key_node.start_mark.line + 1});"
                " keep one"
            )
        given[key] = loader.read(value_node, f"{file}: {key}")
    return given


def read_value(text: str, place: str) -> Any:
    """One value in flow syntax, as `[a, b]` in a cell of a table; traps are refused here too."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        raise InputError(f"{place}: {text!r} is no YAML value such as [a, b]") from error
    return loader.read(node, place) if node else None


class _Loader(yaml.SafeLoader):
    """Refuses what YAML 1.1 reads as something else than a reader does."""

    _place = ""

    def read(self, node: yaml.Node, place: str) -> Any:
        """The value of a node, which messages find at `place`."""
        self._place = place
        try:
            return self.construct_object(node, deep=True)
        except (yaml.YAMLError, RecursionError) as error:  # a tag, or an anchor that holds itself
            raise InputError(
                f"{place} has no plain value ({type(error).__name__}); write it out"
            ) from error

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node or of one within it; called for each."""
        if isinstance(node, yaml.ScalarNode):
            _refuse_trap(node, self._place)
        return super().construct_object(node, deep)


def _refuse_trap(node: yaml.ScalarNode, place: str) -> None:
    kind, raw = node.tag.rpartition(":")[2], node.value
    # quotes say that a text was meant, and end all doubt
    if kind == "str" and not node.style and _ALMOST_FLOAT.match(raw):
        read, write = "a text", yaml.safe_dump(float(raw)).split()[0]
    elif kind == "bool" and raw not in ("true", "false"):
        read, write = "a truth value", "true or false"
    elif kind == "int" and not _PLAIN_INT.match(raw):
        read, write = str(yaml.safe_load(raw)), "the plain decimal"
    # a merge takes values from elsewhere in the file, while files are flat
    elif kind in ("null", "merge", "timestamp"):
        read, write = kind, "a value"
    else:
        return
    raise InputError(
        f"{place}: {raw or 'nothing'} would be read as {read}; write {write}, or '{raw}' in quotes"
        " for the text"
    )


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that look like a number to a reader though not to YAML 1.1."""


# else PyYAML would write them plain, and read_parameters refuse what we wrote
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _ALMOST_FLOAT, list("+-.0123456789"))


def write_parameters(file: Path, parameters: dict[str, Any]) -> None:
    """Write a parameter file that papermill's -f and `read_parameters` read back to the same
    values.
    """
    text = yaml.dump(parameters, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    file.write_text(text, encoding="utf-8")
