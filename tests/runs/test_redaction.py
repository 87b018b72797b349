"""No value of a secret variable stands in what is kept, whatever its name and form."""

import json
from urllib.parse import quote

import pytest

from vislib.runs.redaction import redact, secret_values


def test_redaction_reaches_escaped_forms(monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", 'quote" and & sign')
    assert redact(json.dumps({"k": 'quote" and & sign'})) == '{"k": "[MY_PASSWORD removed]"}'
    assert redact("quote&quot; and &amp; sign") == "[MY_PASSWORD removed]"
    hard = 'sk-very"secret\\<x>&é-0123456789'
    monkeypatch.setenv("MY_PASSWORD", hard)
    for kept in (
        hard,
        json.dumps(hard),
        json.dumps(hard, ensure_ascii=False),
        json.dumps([repr(hard)]),
        f"<p>{hard}</p>",
    ):
        assert "very" not in redact(kept), kept


SECRETS = [
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SESSION_TOKEN",
    "GITHUB_TOKEN",
    "AZURE_OPENAI_KEY",
    "PGPASSWORD",
    "LITELLM_MASTER_KEY",
    "MYSQL_PWD",
    "DB_PASS",
    "APIKEY",
    "OPENAI_KEYS",
    "api-token",
    "GOOGLE_CREDENTIALS_JSON",
    "SSH_PASSPHRASE",
    "GITHUB_PAT",
    "REDISCLI_AUTH",
    "KEY2",
]
HARMLESS = [
    "TOKENIZERS_PARALLELISM",
    "SSH_AUTH_SOCK",
    "XDG_SESSION_ID",
    "KEYBOARD_LAYOUT",
    "OLDPWD",
    "LESSKEYIN",
    "BYPASS_PROXY",
    "KEYCLOAK_URL",
    "PASSENGER_ENV",
    "AUTHOR",
]


def test_names_that_say_secret_in_any_form_are_taken_for_one(monkeypatch, tmp_path):
    for name in (*SECRETS, *HARMLESS):
        monkeypatch.setenv(name, f"value of {name}")
    found = set(secret_values())
    assert found >= set(SECRETS)
    assert not found & set(HARMLESS)
    assert redact("a value of PGPASSWORD") == "a [PGPASSWORD removed]"
    monkeypatch.setenv("GITHUB_TOKEN", "too short")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path))
    assert not secret_values().keys() & {"GITHUB_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE"}


@pytest.mark.parametrize("user", ["", "a", "me", "tom"])
def test_secrets_leave_addresses_too(monkeypatch, user):
    secret = "p@ss/word+0123456789"
    coded = quote(secret, safe="")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{user}:{coded}@db.example.org:5432/pages")
    for kept in (
        secret,
        coded,
        json.dumps(secret),
        f"https://x/?p={coded}&b=1",
    ):
        shown = redact(kept)
        assert "[DATABASE_URL removed]" in shown
        assert not any(form in shown for form in ("ss/word", "ss%2Fword")), shown
    assert redact("db.example.org:5432/pages") == "db.example.org:5432/pages"
