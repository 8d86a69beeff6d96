"""Which variables a profiled process starts with: a table of names and values, each judged by hand."""

from __future__ import annotations

import doctest

import pytest

from dsprof.ground import environment
from dsprof.ground.environment import clean_environment, secrets_in, secrets_of

#: Made, and put together here, so that no scanner takes this file for a leak.
TOKEN = "hf" + "_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA"
HEX = "9f86d081884c7d659a2feaa0c55ad015"

DROPPED = [
    ("HF_TOKEN", TOKEN),
    ("HUGGING_FACE_HUB_TOKEN", "whatever it is"),
    ("GITHUB_TOKEN", "ghp" + "_" + "0123456789abcdefghijABCDEFGHIJ012345"),
    ("GH", "ghs" + "_" + "0123456789abcdefghijABCDEFGHIJ012345"),
    ("NOTHING_SAID", "sk" + "-proj-0123456789abcdefABCDEF"),
    ("OPENAI_API_KEY", "short"),
    ("NVIDIA_API_KEY", "nvapi" + "-0123456789abcdefABCDEF"),
    ("CUDA_NOTE", "nvapi" + "-0123456789abcdefABCDEF"),
    ("AWS_ACCESS_KEY_ID", "AKIA" + "IOSFODNN7EXAMPLE"),
    ("SOME_ID", "AKIA" + "IOSFODNN7EXAMPLE"),
    ("AWS_SECRET_ACCESS_KEY", "/wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ("AWS_SESSION_TOKEN", "IQoJb3JpZ2luX2VjEXAMPLE"),
    ("PASSWORD", "123456"),
    ("PASSWORD", "decode"),
    ("DB_PASS", "x1"),
    ("MYSQL_PWD", "swordfish"),
    ("PGPASSWORD", "swordfish"),
    ("SSHPASS", "swordfish"),
    ("dbPassword", "swordfish"),
    ("authToken", "swordfish"),
    ("npm_config_//registry.example/:_authToken", "swordfish"),
    ("CLIENT_SECRET", "31337"),
    ("ERLANG_COOKIE", "MONSTER"),
    ("MAGIC_COOKIE", HEX),
    ("REDISCLI_AUTH", "swordfish"),
    ("SESSION", HEX),
    ("CACHE_KEY", HEX),
    ("GPG_KEY", "E3FF2839C048B25C084DEBE9B26995E310250568"),
    ("DATABASE_URL", "postgres://me:swordfish@db.example/data"),
    ("http_proxy", "http://me:swordfish@proxy.example:3128"),
    ("PIP_INDEX_URL", "https://0123456789abcdef0123@index.example/simple"),
    ("SENTRY_DSN", "https://public@sentry.example/1"),
    ("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true"),
    ("STORE", "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=c3dvcmRmaXNo"),
    ("JAVA_OPTS", "-Xmx2g -Dstore.password=swordfish"),
    ("HEADER", "Authorization: Bearer c3dvcmRmaXNo"),
    ("LINK", "https://store.example/x?sv=1&sig=c3dvcmRmaXNoc3dvcmRmaXNo"),
    ("SLACK_URL", "https://hooks.slack.com/services/" + "T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"),
    ("ID_RSA", "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END"),
    ("COOKIE_JAR", "session=1"),
    ("WHO", "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP"),
]  # fmt: skip

KEPT = [
    ("PATH", "/usr/local/bin:/usr/bin:/opt/token=swordfish/bin"),
    ("HOME", "/home/me"),
    ("PWD", "/work/secret"),
    ("OLDPWD", "/work"),
    ("LD_LIBRARY_PATH", "/usr/local/cuda/lib64"),
    ("PYTHONPATH", "/work/src"),
    ("CUDA_VISIBLE_DEVICES", "GPU-2ddd7029-28ef-5e9b-5f88-52e573915294"),
    ("CUDA_MODULE_LOADING", "LAZY"),
    ("CUDA_CACHE_PATH", "/tmp/cache"),
    ("NVIDIA_VISIBLE_DEVICES", "all"),
    ("NVIDIA_REQUIRE_CUDA", "cuda>=12.4 brand=tesla,driver>=470,driver<471"),
    ("HF_HOME", "/data/hf"),
    ("HF_TOKEN_PATH", "/data/hf/token"),
    ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
    ("TOKENIZERS_PARALLELISM", "false"),
    ("TOKENIZERS_CACHE", "/data/tokenizers"),
    ("MAX_NEW_TOKENS", "512"),
    ("EOS_TOKEN_ID", "2"),
    ("PROMPT_TOKENS", "1020"),
    ("XDG_RUNTIME_DIR", "/run/user/1000"),
    ("XDG_SESSION_ID", "c12"),
    ("XAUTHORITY", "/home/me/.Xauthority"),
    ("SSH_AUTH_SOCK", "/tmp/ssh-XXXXXX/agent.1234"),  # the address of an agent, and no secret itself
    ("SSH_AGENT_PID", "1234"),
    ("GIT_ASKPASS", "/usr/lib/git-askpass"),
    ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/1000/bus"),
    ("GOOGLE_APPLICATION_CREDENTIALS", "/run/keys/google.json"),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/token"),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ("KEYBOARD", "us"),
    ("KEYBOARD_LAYOUT", "de-latin1-nodeadkeys"),
    ("KEYMAP", "emacs"),
    ("SORT_KEY", "name"),
    ("CACHE_KEY", "linux-x86_64-python"),
    ("KEY_BINDINGS", "vi"),
    ("AUTH", "none"),
    ("AUTHOR", "Ann Author"),
    ("BYPASS", "yes"),
    ("FIRST_PASS", "1"),
    ("COMPASS", "north"),
    ("MONKEY", "george"),
    ("DESKTOP_SESSION", "gnome"),
    ("PYTHON_SHA256", HEX + HEX),
    ("GITHUB_SHA", HEX),
    ("HOSTNAME", "9f86d081884c"),
    ("LS_COLORS", "rs=0:di=01;34:ln=01;36:*.tar=01;31"),
    ("URL", "https://example.org/a:b@c?x=y"),
    ("PIP_INDEX_URL", "https://index.example/simple"),
    ("GIT_REMOTE", "git@github.com:me/project.git"),
    ("ARGS", "--max_token=51200 --tasks=task-0123456789abcdef"),
    ("TEMPLATE", "password=$PASSWORD"),
    ("SERVICE_URL", "postgres://db.example:5432/data"),
    ("API_TOKEN", ""),
    ("_", "/usr/bin/env"),
    ("1", "2"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), DROPPED)
def test_what_looks_secret_is_left_out(name: str, value: str) -> None:
    clean = clean_environment({name: value, "HOME": "/home/me"})
    assert clean.dropped == (name,)
    assert clean.variables == {"HOME": "/home/me"}


@pytest.mark.parametrize(("name", "value"), KEPT)
def test_what_programs_need_stays(name: str, value: str) -> None:
    clean = clean_environment({name: value})
    assert clean.dropped == ()
    assert clean.variables == {name: value}


def test_a_named_variable_stays_whatever_it_holds() -> None:
    clean = clean_environment({"HF_TOKEN": TOKEN, "DB_PASS": "x1", "HOME": "/"}, keep=["HF_TOKEN"])
    assert clean == ({"HF_TOKEN": TOKEN, "HOME": "/"}, ("DB_PASS",))


def test_the_order_of_the_variables_stays_and_the_source_is_left_alone() -> None:
    source = {"B": "1", "A_TOKEN": "swordfish", "A": "2", "A_SECRET": "swordfish"}
    clean = clean_environment(source)
    assert list(clean.variables) == ["B", "A"]
    assert clean.dropped == ("A_SECRET", "A_TOKEN")
    assert len(source) == 4


def test_the_secret_part_of_a_value_is_told() -> None:
    url = "postgres://me:swordfish@db.example/data"
    assert secrets_in(f"see {url} and {TOKEN}.") == ("swordfish", TOKEN)
    assert secrets_of("ANY", url) == ("swordfish",)
    assert secrets_of("URL_PASSWORD", url) == (url, "swordfish")


def test_a_long_value_is_judged_in_no_time() -> None:
    assert secrets_in("a:" * 50_000 + "//" + "=" * 50_000) == ()


def test_the_examples_are_true() -> None:
    assert doctest.testmod(environment).failed == 0
