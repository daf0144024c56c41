"""The documentation names what there is: links, settings, calls, commands, problems, topics."""

import ast
import importlib
import math
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema_rs
import orjson
import pytest
from pydantic_core import PydanticUndefined

from app.cli.main import COMMANDS
from app.config.settings import Settings
from app.domain.email_claims import encode_claim, encode_verdict
from app.domain.errors import Unavailable
from app.domain.outcomes import Decided, Outcome
from app.domain.records import encode, encode_outcome
from app.kafka.topics import asyncapi, declare
from app.system import retries
from app.system.retries import RetryPolicy
from app.web.api.operations import OPERATIONS
from app.web.http import problems
from app.web.trpc.procedures import PROCEDURES
from local.settings import LocalSettings
from tests.support.documents import ROOT, Block, anchors, links, outside

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
REFERENCE = DOCS / "reference"
#: The outcomes in `registration-outcomes`.
TOLD = sorted(set(Outcome) - {Outcome.PENDING, Outcome.DEAD_LETTER})
#: Pages that text outside the documentation names: code, settings, manifests.
NAMED = re.compile(r"docs/[\w/-]+\.md")
CODE = [
    path
    for folder in ("app", "tables", "local", "tests", "bench", "deploy", "examples")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".yml", ".yaml", ".service", ".toml"} and "vendor" not in path.parts
]


def rows(page: Path) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each row of each table of a page."""
    for line in page.read_text().splitlines():
        if line.startswith("| `"):
            yield tuple(cell.strip() for cell in line.strip("|").split(" | "))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{path}#{anchor}"


def test_every_page_that_the_code_names_is_there() -> None:
    named = {(name, path) for path in CODE for name in NAMED.findall(path.read_text())}
    assert [(name, path) for name, path in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("commands", "printed"),
    [
        ("echo one; false", ""),
        ("false | cat", ""),
        ("echo one", "two"),
        ("echo one two", "two…one"),
    ],
)
def test_commands_that_do_something_else_are_noticed(
    commands: str, printed: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError):
        Block(commands, printed).run(tmp_path, outside(), 30)


def test_commands_that_do_what_the_page_says_pass(tmp_path: Path) -> None:
    Block("echo one two; echo three", "one…\nthree").run(tmp_path, outside(), 30)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def shown(default: object) -> str | None:
    """Return a default as the page has it; None if it has words for it."""
    match default:
        case None | "":
            return None
        case bool():
            return str(int(default))
        case float():
            return f"{default:g}"
        case _:
            return str(default)


def test_every_setting_has_one_row_with_its_default() -> None:
    fields = {**Settings.model_fields, **LocalSettings.model_fields}
    described = {name.strip("`").lower(): default for name, default, _ in settings_rows()}
    assert len(list(settings_rows())) == len(described)
    assert described.keys() == fields.keys()
    for name, field in fields.items():
        assert field.default is not PydanticUndefined
        wanted = shown(field.default)
        assert wanted is None or described[name] == wanted, name


def test_the_recipe_has_the_settings_and_defaults_of_the_code() -> None:
    page = (DOCS / "explanation" / "recipe.md").read_text()
    named = 0
    for line in page.splitlines():
        cells = line.strip("|").split(" | ")
        names = re.findall(r"`([A-Z_]+)`", cells[2]) if len(cells) == 5 else []
        defaults = [cell.strip("` ") for cell in cells[3].split(", ")] if names else []
        fields = [Settings.model_fields[name.lower()] for name in names]
        assert [shown(field.default) for field in fields] == defaults
        named += len(names)
    assert named == 8


def settings_rows() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the page of settings."""
    return rows(REFERENCE / "settings.md")


def test_every_call_is_on_the_page_of_calls() -> None:
    page = (REFERENCE / "http.md").read_text()
    calls = {f"{method} {path}" for method, path in OPERATIONS}
    missing = {call for call in calls if f"`{call}" not in page}
    assert missing == set()
    assert [name for name in PROCEDURES if f"{name}`" not in page] == []


def test_every_command_is_on_the_page_of_commands() -> None:
    page = (REFERENCE / "commands.md").read_text()
    assert [name for name in COMMANDS if f"`{name}`" not in page] == []
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\S+)  ", makefile, re.MULTILINE)
    assert len(targets) > 10
    assert [name for name in targets if f"`make {name}`" not in page] == []


def problem_types() -> set[str]:
    """Return the last part of every type that the code gives a problem."""
    found = {name for _, name, _ in problems._KNOWN.values()} | set(problems._NAMES.values())
    found |= {outcome.reason for outcome in Outcome if outcome.reason}
    found |= {"error"}
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ProblemError"):
                match node.args:
                    case [_, ast.Constant(value=str(name)), *_]:
                        found.add(name)
    return found


def test_every_problem_type_is_on_the_page_of_problems() -> None:
    described = [row[0].strip("`") for row in rows(REFERENCE / "problems.md")]
    # It is chosen where bodies are read, from two.
    causes = {"cause", *Unavailable}
    assert set(described) - causes == problem_types() | {"too-slow"}
    assert len(described) == len(set(described))


def test_every_topic_is_on_the_page_of_topics() -> None:
    topics = declare(asyncapi.defaults()).all()
    described = {row[0].strip("`") for row in rows(REFERENCE / "topics.md") if len(row) == 5}
    assert {name.replace("APP_ID", "user-registry") for name in described} == {
        topic.name for topic in topics
    }


def test_every_outcome_is_on_the_page_of_topics() -> None:
    described = {row[0].strip("`") for row in rows(REFERENCE / "topics.md") if len(row) == 2}
    assert described >= {outcome.word for outcome in TOLD}


def test_the_asyncapi_document_is_that_of_the_code() -> None:
    written = (REFERENCE / "asyncapi.json").read_text()
    assert written == asyncapi.text(), "make clients"


def test_the_asyncapi_document_has_every_topic() -> None:
    document = asyncapi.document(asyncapi.defaults())
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert addresses == {topic.name for topic in declare(asyncapi.defaults()).all()}
    for operation in document["operations"].values():
        assert operation["channel"]["$ref"].rpartition("/")[2] in document["channels"]
    messages = document["components"]["messages"]
    for channel in document["channels"].values():
        assert channel["messages"].keys() <= messages.keys()


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ("registration", encode({"id": "ada", "name": "Ada", "email": "ada@example.com"})),
        ("update", encode({"type": "update", "id": "ada", "name": "Ada"})),
        ("update", encode({"type": "update", "id": "ada", "name": "Ada", "ifVersion": 1})),
        ("erasure", b"null"),
        ("conditionalErasure", encode({"type": "erase", "id": "ada", "ifPosition": "A" * 20})),
        ("claim", encode_claim("claim", "ada", "AQ")),
        ("verdict", encode_verdict(b"key", "AQ", "granted", "AR")),
        *(("outcome", encode_outcome("A" * 20, Decided(0, "ada", told))) for told in TOLD),
        ("outcome", encode_outcome("A" * 20, Decided(0, "ada", Outcome.MOVED), "B" * 20)),
    ],
)
def test_records_are_as_the_asyncapi_document_says(message: str, value: bytes) -> None:
    described = asyncapi.document(asyncapi.defaults())["components"]["messages"][message]
    jsonschema_rs.meta.validate(described["payload"])
    jsonschema_rs.validate(described["payload"], orjson.loads(value))


def test_every_cause_of_a_503_is_documented_in_its_words() -> None:
    page = (ROOT / "docs" / "reference" / "problems.md").read_text()
    for cause in Unavailable:
        assert f"| `{cause}` | {cause.sentence} |" in page


def row_of_policy(name: str, policy: RetryPolicy) -> str:
    """Return what the page must say of a retry policy."""
    pauses = f"{policy.first_seconds:g} | {policy.longest_seconds:g}"
    return f"| `{name}` | {policy.who} | {policy.what} | {pauses} | {policy.until} |"


def test_the_table_of_retries_has_every_policy_and_its_values() -> None:
    page = (DOCS / "explanation" / "retries.md").read_text()
    expected = [row_of_policy(*each) for each in retries.POLICIES.items()]
    assert [line for line in page.splitlines() if line.startswith("| `")] == expected, (
        "docs/explanation/retries.md must have these rows:\n" + "\n".join(expected)
    )
    for policy in retries.POLICIES.values():
        if policy.limit_seconds < math.inf:
            assert f"{policy.limit_seconds:g} s" in policy.until


def test_the_text_about_other_retries_has_the_values_of_the_code() -> None:
    page = (DOCS / "explanation" / "retries.md").read_text()
    told = [line for line in page.splitlines() if line.startswith("- ") and "_SECONDS" in line]
    assert told
    for row in told:
        for name in re.findall(r"`((?:app|tools)\.[\w.]+)`", row):
            module, _, constant = name.rpartition(".")
            value = getattr(importlib.import_module(module), constant)
            for number in value if isinstance(value, tuple) else (value,):
                assert re.search(rf"\b{number}\b", row), f"{name} is {number}: {row}"
