"""The parameters cell as schema, and the traps of YAML."""

import json
from pathlib import Path

import pytest

from vislib.runs.errors import InputError
from vislib.runs.params import read_schema, resolve
from vislib.runs.yaml_files import read_parameters, write_parameters

RUN = '\nrun_dir: str = "runs/demo"  # folder\nvariant: str = ""  # variant'


def schema_of(folder: Path, *lines: str):
    book = {
        "cells": [
            {
                "cell_type": "code",
                "metadata": {"tags": ["parameters"]},
                "source": "\n".join(lines) + RUN,
            }
        ]
    }
    (folder / "80_demo.ipynb").write_text(json.dumps(book))
    return read_schema(folder / "80_demo.ipynb")


def test_a_line_gives_name_type_default_help_and_bounds(tmp_path):
    schema = schema_of(
        tmp_path,
        "max_tokens: int = 2000  # text tokens [1..1000000]",
        'engine: str = "extractive"  # who answers [extractive|openai]',
        'kinds: list = ["contextual"]  # captions to make [contextual|non_contextual]',
        'samples: str = "02_filtering/samples"  # samples [input]',
        "workers: int = 2  # processes [1..64] [throughput]",
    )
    tokens = schema["max_tokens"]
    assert (tokens.type, tokens.default, tokens.help, tokens.low, tokens.high) == (
        "int",
        2000,
        "text tokens",
        1,
        1e6,
    )
    assert schema["engine"].choices == ("extractive", "openai")
    assert schema["workers"].flags == {"throughput"}
    assert (schema["workers"].low, schema["workers"].high) == (1, 64)
    assert list(schema)[-2:] == ["run_dir", "variant"]


@pytest.mark.parametrize(
    "line",
    [
        "n = 3  # no type",
        "n: int = 1 + 1  # expression",
        "n: int = other  # a name",
        'n: str = "a#b"  # hash',
        'n: str = "a"  # with a = b',
        "n: int | None = 3  # union",
        'api_key: str = ""  # secret',
        'hf_token: str = ""  # secret',
        "n: int = 5  # too large [0..3]",
    ],
)
def test_lines_that_papermill_or_the_runner_cannot_hold_are_refused(tmp_path, line):
    with pytest.raises(InputError, match=r"80_demo\.ipynb, parameters cell, line 1"):
        schema_of(tmp_path, line)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n": "3"}, "n is '3' (str)"),
        ({"n": True}, "n is True (bool)"),
        ({"n": 0}, "within [1..9]"),
        ({"n": 1.5}, "float"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"engine": "gpt"}, "out of extractive, openai"),
        ({"nn": 1}, "unknown parameter 'nn'"),
        ({"kinds": ["contextual", "odd"]}, "odd"),
        ({"paths": [3]}, "every entry must be a text"),
        ({"auth_token": "x"}, "secret"),
    ],
)
def test_bad_values_name_place_key_value_and_what_is_allowed(tmp_path, given, said):
    schema = schema_of(
        tmp_path,
        "n: int = 1  # a number [1..9]",
        "rate: float = 0.5  # a share [0..1]",
        'engine: str = "extractive"  # who [extractive|openai]',
        "kinds: list = []  # kinds [contextual|fused]",
        "paths: list = []  # files [input]",
    )
    with pytest.raises(InputError) as caught:
        resolve(schema, given, "params/demo/80_demo.yaml")
    assert said in str(caught.value)
    assert str(caught.value).startswith("params/demo/80_demo.yaml: ")


def test_an_int_does_for_a_float_and_defaults_fill_the_rest(tmp_path):
    schema = schema_of(
        tmp_path, "rate: float = 0.5  # a share [0..1]", "max_tokens: int = 7  # no secret [1..9]"
    )
    assert resolve(schema, {"rate": 1}, "here") == {
        "rate": 1,
        "max_tokens": 7,
        "run_dir": "runs/demo",
        "variant": "",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr: 1e-5", "write 1.0e-05"),
        ("lr: 2.5E3", "write 2500.0"),
        ("rev: 0123", "read as 83"),
        ("n: 1_000", "read as 1000"),
        ("n: 0x1F", "read as 31"),
        ("t: 12:30", "read as 750"),
        ("a: on", "truth value"),
        ("on: 1", "truth value"),
        ("a: yes", "'yes'"),
        ("a:", "null"),
        ("a: ~", "null"),
        ("a: 2024-01-01", "'2024-01-01' in quotes"),
        ("a: 1\na: 2", "given twice"),
        ("a: &x [*x]", "no plain value"),
        ("a: !odd 1", "no plain value"),
        ("b: &x {n: 1}\n<<: *x", "merge"),
        ("- 1", "must hold lines"),
        ("a: [1, off]", "truth value"),
        ("a: {b", "not a readable YAML"),
    ],
)
def test_yaml_traps_are_errors_with_their_mend(tmp_path, text, said):
    file = tmp_path / "80_demo.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_parameters(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_what_is_written_reads_back(tmp_path):
    values = {
        "a": "1e-5",
        "b": "on",
        "c": "0123",
        "d": 1e-5,
        "e": True,
        "f": ["x", "y"],
        "g": "",
        "h": "naïve ‹ ›",
        "i": 3,
    }
    write_parameters(tmp_path / "p.yaml", values)
    assert read_parameters(tmp_path / "p.yaml") == values
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_parameters(tmp_path / "empty.yaml") == {}


def test_an_empty_text_takes_its_environment_variable_before_keying(tmp_path, monkeypatch):
    schema = schema_of(tmp_path, 'base_url: str = ""  # server [env OPENAI_BASE_URL]')
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert resolve(schema, {}, "here")["base_url"] == "http://127.0.0.1:9/v1"
    assert (
        resolve(schema, {"base_url": "http://127.0.0.1:8/v1"}, "here")["base_url"]
        == "http://127.0.0.1:8/v1"
    )
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert resolve(schema, {}, "here")["base_url"] == ""
