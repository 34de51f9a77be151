"""A YAML file is read as it stands, or refused by file, line and field before anything runs.

The projects are real folders; their definitions load as `dagster dev` would load them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain_assets import RetrainedModel
from retrain_assets.specs.base import SpecError
from retrain_assets.specs.dataset import DatasetSpec
from retrain_assets.specs.yaml import Document, find_secret, load_strictly, parse_spec
from retrain_assets_tests.projects import Project, line_of, yaml_of
from retrain_assets_tests.world import DATASET

HEAD = "type: retrain_assets.LandedDataset\nattributes:\n"
COLUMNS = DATASET["columns"]


# Files that are not sound YAML are refused before Dagster's own loader reads them.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEAD}  name: !!python/object/apply:os.system [ls]\n", "line 3: the tag 'tag:yaml.org"),
        (f"{HEAD}  name: !secret x\n", "line 3: the tag '!secret' is not supported: leave it out"),
        (f"{HEAD}  name: a\n  key: [b]\n  name: c\n", "line 5: attributes: 'name' stands twice, "),
        ("type: a\nattributes: {}\ntype: b\n", "line 3: 'type' stands twice, first on line 1"),
        (f"{HEAD}  1: x\n", "line 3: attributes: the key 1 is not text: put it in quotes"),
        (f"{HEAD}  [a]: x\n", "line 3: attributes: the key ['a'] is not text"),
        (f"{HEAD}  key: [a\n", "line 3: did not find expected ',' or ']': put a"),
        (f"{HEAD}  a: {{b: 1 c: 2}}\n", "expected ',' or '}': put a comma between two entries"),
        (f"{HEAD}  name a\n  key: b\n", "see if the line before lacks a colon"),
        (f"{HEAD}  a: 'b\n  c: d\n", "line 3: found unexpected end of stream: close the quote"),
        (f"{HEAD}\tname: x\n", "line 3: found character that cannot start any token: indent"),
        (
            f"{HEAD}  key: *nowhere\n",
            "line 3: *nowhere refers to &nowhere, which is not written",
        ),
        (f"{HEAD}  key: &x [*x]\n", "line 3: *x refers to &x, which is not written above it"),
        ("", "line 1: is empty"),
        ("# nothing but words\n", "line 1: is empty"),
        ("- a\n- b\n", "line 1: document 1 is a list: write a mapping"),
        ("hello\n", "line 1: document 1 is a str"),
        (f"{yaml_of()}---\n- a\n", "document 3 is a list"),
        (f"{yaml_of()}---\n", "document 3 is empty"),
        (f"{HEAD}  name: a\x00b\n", "line 3: control characters are not allowed"),
        ((HEAD + "  name: é\n").encode("latin-1"), "line 3: is not UTF-8"),
        (f"{HEAD}  key: {'[' * 100_000}\n", "line 3: nested deeper than 40 levels"),
        ("#" * (2**20 + 1), "has 1,048,577 bytes: 1,048,576 are the most"),
    ],
    ids=range(23),
)
def test_what_is_not_sound_yaml_is_refused_first(
    project: Project, text: str | bytes, said: str
) -> None:
    project.write(text)
    refusal = project.refusal()
    assert refusal.startswith("mine/defs.yaml: ")
    assert said in refusal
    assert len(refusal) < 300


BOMB = """
import re, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from retrain_assets.definitions import build_defs
sys.path.insert(0, sys.argv[2])
try:
    build_defs(project=Path(sys.argv[1]))
except ValueError as error:
    # Its own peak; what getrusage tells begins with that of the process it was forked from.
    (peak,) = re.findall(r"VmHWM:[ \\t]*([0-9]+) kB", Path("/proc/self/status").read_text())
    print(error, int(peak) >> 10, sep="\\n")
"""


def test_an_anchor_bomb_costs_neither_time_nor_memory(project: Project) -> None:
    levels = [f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 30)]
    project.write(f"{HEAD}  l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n{''.join(levels)}")
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(project.package), str(project.root / "src")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    said, megabytes = done.stdout.splitlines()
    assert (
        said == "mine/defs.yaml: line 7: its aliases stand for more than 50,000 values: use fewer"
    )
    assert int(megabytes) < 600


def test_an_alias_that_is_used_for_brevity_is_fine(project: Project) -> None:
    text = yaml_of().replace("x:\n      type: float\n", "x: &number\n      type: float\n", 1)
    text = text.replace("    plan:\n", "    z: *number\n    plan:\n", 1)
    project.write(text)
    assert project.load() is not None
    columns = load_strictly(project.package / "defs/mine/defs.yaml")[0].value["attributes"][
        "columns"
    ]
    assert columns["z"] == columns["x"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "type: a.B\natributes: {}\n",
            "line 2: atributes: unknown field: did you mean attributes?",
        ),
        ("type: a.B\npassword: hunter2canary\n", "line 2: password: unknown field; there are"),
        ("attributes: {}\n", "line 1: type: is needed: "),
        (
            "type: retrain_assets.LandedDatset\n",
            "line 1: type: no component 'LandedDatset': did you mean LandedDataset?",
        ),
        ("type: [a]\n", "line 1: type: input should be a valid string, found ['a']"),
        (yaml_of().replace("type: retrain", "type: 7 #", 1), "line 1: type: input should be a"),
        ("type: retrain_assets.LandedDataset\nattributes: x\n", "line 2: attributes: input should"),
        ("type: retrain_assets.LandedDataset\n", "line 1: attributes.name: is needed: Group and"),
    ],
)
def test_what_stands_beside_the_attributes_is_checked_too(
    project: Project, text: str, said: str
) -> None:
    project.write(text)
    refusal = project.refusal()
    assert f"mine/defs.yaml: {said}" in refusal
    assert "canary" not in refusal


# Sound YAML that is no sound spec is refused by the component, whoever loads it.


@pytest.mark.parametrize("plainly", [False, True], ids=["ours", "theirs"])
def test_every_mistake_is_a_line_of_its_own(project: Project, plainly: bool) -> None:
    columns = COLUMNS | {"x": {"type": "flaot", "min": "eleven", "personel": True}}
    text = yaml_of({"windwos": {}}, {"columns": columns, "qarantine": {}})
    project.write(text)
    expected = {
        "flaot": "columns.x.type: cannot be 'flaot': did you mean float?",
        "eleven": "columns.x.min: input should be a valid number, found 'eleven': write a "
        "number, such as 10 or 0.5",
        "personel": "columns.x.personel: unknown field: did you mean personal?",
        "qarantine": "qarantine: unknown field: did you mean quarantine?",
        "windwos": "windwos: unknown field: did you mean windows?",
    }
    assert project.refusal(plainly=plainly).splitlines() == [
        f"mine/defs.yaml: line {line_of(text, part)}: attributes.{said}"
        for part, said in expected.items()
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("max_fraction: no", "max_fraction: input should be a valid number, found 'no'"),
        ("max_fraction: 1_0", "found '1_0'"),
        ("max_fraction: 0o1", "found '0o1'"),
        ("max_fraction: 00", "found '00'"),
        ("max_fraction: 0:30", "found '0:30'"),
        ("max_fraction: true", "found True"),
        ("max_fraction: .nan", "found '.nan'"),
        ("max_fraction: 1e999", "input should be a finite number, found inf"),
        ("max_fraction: 1.5", "input should be less than or equal to 1, found 1.5: Above this"),
        ("max_fraction: 90", "less than or equal to 1, found 90: write 0.9"),
        ("max_fraction: -1", "input should be greater than or equal to 0, found -1"),
        ("max_fraction: null", "found None"),
        ("max_fraction: [1]", "found [1]"),
        ("max_fraction: 2013-01-01", "found '2013-01-01'"),
        ("max_fration: 1", "max_fration: unknown field: did you mean max_fraction?"),
        ("on: 1", "on: unknown field; there are max_fraction"),
        ("<<: {max_fraction: 1}", "<<: unknown field; there are max_fraction"),
    ],
)
@pytest.mark.parametrize("plainly", [False, True], ids=["ours", "theirs"])
def test_words_and_numbers_are_what_they_look_like(
    project: Project, change: str, said: str, plainly: bool
) -> None:
    text = yaml_of(None, {"quarantine": "HERE"}).replace("HERE", f"{{{change}}}")
    project.write(text)
    refusal = project.refusal(plainly=plainly)
    assert refusal.startswith(
        f"mine/defs.yaml: line {line_of(text, 'quarantine')}: attributes.quarantine."
    )
    assert said in refusal


def test_a_type_by_the_name_of_another_program_is_understood(project: Project) -> None:
    project.write(yaml_of(None, {"columns": COLUMNS | {"x": {"type": "number"}}}))
    assert "columns.x.type: cannot be 'number': did you mean float?" in project.refusal()


@pytest.mark.parametrize(("version", "refusal"), [(1, None), (2, "install a newer")])
def test_a_newer_version_of_the_yaml_is_refused_for_that_alone(
    version: int, refusal: str | None
) -> None:
    later = {"spec_version": version} | ({"of_later": 1} if refusal else {})
    document = Document("defs.yaml", {"attributes": DATASET | later}, {})
    if refusal is None:
        assert "spec_version" not in parse_spec(document, DatasetSpec).model_dump()
        return
    with pytest.raises(SpecError, match=refusal) as refused:
        parse_spec(document, DatasetSpec)
    assert "of_later" not in str(refused.value)


def test_text_that_yaml_1_1_would_change_stays_text(project: Project) -> None:
    words = "[NO, on, yes, 2013-01-01, 010, 0x1F, 1_000, 12:30, NULL, True, ~x]"
    columns = COLUMNS | {"plan": {"type": "category", "allowed": "HERE"}}
    project.write(yaml_of(None, {"columns": columns}).replace("HERE", words))
    dataset, _ = load_strictly(project.package / "defs/mine/defs.yaml")
    allowed = dataset.value["attributes"]["columns"]["plan"]["allowed"]
    assert allowed == words.strip("[]").split(", ")
    assert project.load_plainly() is not None


def test_a_small_number_in_exponents_is_a_number(project: Project) -> None:
    text = yaml_of(None, {"quarantine": {"max_fraction": "HERE"}}).replace("HERE", "5e-2")
    project.write(text)
    assert project.load() is not None


def test_a_message_is_one_legible_line_whatever_stands_in_the_file(project: Project) -> None:
    hostile = "a\x1b[31m\n\u202e<script>" + "x" * 10_000
    project.write(yaml_of({hostile: 1, "dataset": hostile}))
    for line in project.refusal(plainly=True).split("\n"):
        assert line.startswith("mine/defs.yaml: line ")
        assert line.isprintable()
        assert len(line) < 800


# Secrets and the environment.

SECRETS = [
    "postgresql://me:hunter2canary@db.example.org/x",
    "xoxb-1234567890-hunter2canary",
    "AKIAHUNTER2CANARY123",
    "ghp_hunter2canaryhunter2canary12",
    "-----BEGIN RSA PRIVATE KEY----- hunter2canary",
    "https://a.example.org/x?sig=hunter2canary",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_in_the_file_is_refused_and_not_repeated(project: Project, secret: str) -> None:
    text = yaml_of({"notify": {"slack": secret}})
    project.write(text)
    for plainly in (False, True):
        refusal = project.refusal(plainly=plainly)
        assert f"mine/defs.yaml: line {line_of(text, 'slack')}: holds what looks like a" in refusal
        assert "canary" not in refusal.lower()


def test_a_secret_in_a_comment_or_under_an_unknown_field_is_not_repeated(project: Project) -> None:
    project.write(f"# {SECRETS[1]}\n{yaml_of()}")
    assert "line 1: holds what looks like a token of Slack" in project.refusal()
    project.write(yaml_of({"password": "hunter2canary"}))
    refusal = project.refusal(plainly=True)
    assert "attributes.password: unknown field" in refusal
    assert "canary" not in refusal


def test_a_reference_to_the_environment_is_resolved(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_TEST_CHANNEL", "#night")
    monkeypatch.setenv("RETRAIN_TEST_WORD", "x")
    notify = {"slack": "{{ env.RETRAIN_TEST_CHANNEL }}"}
    features = {"sql": "SELECT {{env.RETRAIN_TEST_WORD}} AS a, plan FROM rows"}
    project.write(yaml_of({"notify": notify, "features": features}))
    tree = dg.ComponentTree.for_project(project.package)
    (model,) = tree.get_all_components(RetrainedModel)
    assert model.spec.notify.slack == "#night"
    assert model.spec.features.sql == "SELECT x AS a, plan FROM rows"


def test_an_unset_variable_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRAIN_TEST_CHANNEL", raising=False)
    text = yaml_of({"notify": {"slack": "{{ env.RETRAIN_TEST_CHANNEL }}"}})
    project.write(text)
    assert project.refusal(plainly=True) == (
        f"mine/defs.yaml: line {line_of(text, 'slack')}: attributes.notify.slack: "
        "RETRAIN_TEST_CHANNEL not set in the environment: set it for Dagster"
    )


@pytest.mark.parametrize(
    "template", ["{{ env('X') }}", "{{ dg.x }}", "{{ env.X | upper }}", "{{ env.X", "{{ env.1 }}"]
)
def test_any_other_template_is_refused(project: Project, template: str) -> None:
    project.write(yaml_of({"notify": {"slack": template}}))
    refusal = project.refusal(plainly=True)
    assert "attributes.notify.slack: cannot resolve " in refusal
    assert "only {{ env.NAME }} is supported" in refusal


@pytest.mark.parametrize(
    ("model", "dataset"),
    [
        ({"notify": {"slack": "{{ env.CANARY }}"}}, {}),
        ({"schedule": "{{ env.CANARY }}"}, {}),
        ({"name": "{{ env.CANARY }}"}, {}),
        ({"dataset": "{{ env.CANARY }}x"}, {}),
        ({"weight": "{{ env.CANARY }}"}, {}),
        ({"exclude": [{"first": "{{ env.CANARY }}", "last": "a", "reason": "b"}]}, {}),
        ({}, {"landing": "{{ env.CANARY }}"}),
        ({}, {"key": ["{{ env.CANARY }}"]}),
        ({}, {"partition": DATASET["partition"] | {"timezone": "{{ env.CANARY }}"}}),
        ({}, {"partition": DATASET["partition"] | {"start": "{{ env.CANARY }}"}}),
        ({}, {"read": {"settle": "{{ env.CANARY }}"}}),
    ],
)
def test_what_a_variable_holds_is_in_no_message(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    model: dict[str, Any],
    dataset: dict[str, Any],
) -> None:
    monkeypatch.setenv("CANARY", "hunter2 'can\nary'" + "z" * 100)
    project.write(yaml_of(model, dataset))
    with pytest.raises(Exception, match=r"defs.yaml") as caught:
        project.load_plainly()
    told = "".join(traceback.format_exception(caught.value))
    assert "mine/defs.yaml: line " in told
    assert "hunter2" not in told


def test_a_secret_out_of_the_environment_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "hunter2")
    table = {"delta": "s3://me:{{ env.CANARY }}@bucket/x", "landing": None}
    project.write(yaml_of(None, table))
    refusal = project.refusal(plainly=True)
    assert "attributes.delta: CANARY makes it a password within a URL" in refusal
    assert "hunter2" not in refusal


# Values are read as they are written, whatever the bytes.

# YAML 1.1, which the program writes, takes 1e3 for text and leaves it without quotes.
TEXT = st.text(max_size=20).filter(lambda text: not re.fullmatch(r"[-+.0-9]+[eE][-+0-9]+", text))
PLAIN = st.none() | st.booleans() | TEXT
NUMBERS = st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    PLAIN | NUMBERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
SAME_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "defs.yaml"


@SAME_FOLDER
@given(value=st.dictionaries(TEXT, VALUES, max_size=4))
def test_what_a_program_writes_is_read_back_as_it_was(path: Path, value: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    (document,) = load_strictly(path)
    assert document.value == value


SYNTAX = st.text(alphabet="ab:-?[]{}&*!|>'\"%#,\n \t~1.0\x00\ufeff\u2028", max_size=60)


@SAME_FOLDER
@given(content=st.binary(max_size=60) | SYNTAX.map(str.encode))
def test_any_bytes_are_read_or_refused_by_line(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    said = ""
    try:
        documents = load_strictly(path)
    except SpecError as error:
        documents, said = (), str(error)
    assert all(isinstance(document.value, dict) for document in documents)
    assert bool(documents) != (": line " in said)
    assert said.isprintable()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1e3", 1000.0),
        ("-0.5", -0.5),
        (".5", 0.5),
        ("7.", 7.0),
        ("+12", 12),
        ("0", 0),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        *((text, text) for text in ("on", "NO", "y", "True", "NULL", ".nan", ".inf", "0x1F")),
        *((text, text) for text in ("010", "00", "1_000", "12:30", "2013-01-01", "0b1", "1e", ".")),
        *((f"'{text}'", text) for text in ("1", "true", "null", "")),
        ("1" * 5_000, "1" * 5_000),
    ],
)
def test_a_plain_word_means_one_thing(path: Path, written: str, read: object) -> None:
    path.write_text(f"a: {written}\n", encoding="utf-8")
    value = load_strictly(path)[0].value["a"]
    assert value == read
    assert type(value) is type(read)


def test_a_part_has_the_line_it_stands_on_or_that_of_what_it_would_be_in(path: Path) -> None:
    path.write_text("# head\na:\n  b:\n    - c\n    - {d: 1,\n       e: 2}\nf: &x [1]\n", "utf-8")
    (document,) = load_strictly(path)
    lines = {(): 1, ("a",): 2, ("a", "b"): 3, ("a", "b", 1): 5, ("a", "b", 1, "e"): 6}
    assert {loc: document.line(loc) for loc in lines} == lines
    assert document.line(("a", "b", 1, "zz", 3)) == 5
    refusal = document.refusal((("f",), "last"), (("a", "b"), "first"))
    assert str(refusal).splitlines() == [
        f"{path.parent.name}/defs.yaml: line 3: a.b: first",
        f"{path.parent.name}/defs.yaml: line 7: f: last",
    ]


def test_a_byte_order_mark_and_foreign_line_ends_are_fine(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert load_strictly(path)[0].value == {"a": 1, "b": 2}


def test_an_edited_file_is_read_anew(path: Path) -> None:
    path.write_text("a: 1\n", encoding="utf-8")
    assert load_strictly(path)[0].value == {"a": 1}
    path.write_text("a: 2\n", encoding="utf-8")
    assert load_strictly(path)[0].value == {"a": 2}


@pytest.mark.parametrize("unit", [":", "://", "://:", "-----BEGIN ", "?sig", "://a:b"])
def test_secrets_are_looked_for_in_linear_time(unit: str) -> None:
    before = time.process_time()
    assert find_secret("://" + unit * (80_000 // len(unit))) is None
    assert time.process_time() - before < 2


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/table",
        "abfss://container@account.dfs.core.windows.net/x",
        "https://example.org:8443/a@b",
        "SELECT token, password FROM rows WHERE token = 'x'",
        "http://127.0.0.1:3000",
        "postgresql://me:{{ env.PASSWORD }}@host/db",
        "ml@example.org",
    ],
)
def test_what_is_no_secret_is_not_taken_for_one(text: str) -> None:
    assert find_secret(text) is None
