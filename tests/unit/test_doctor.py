"""What ``doctor`` makes of what it finds, without a broker or a worker."""

import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from app.access.keys import new_key
from app.access.scopes import Scope
from app.config.settings import Settings
from app.config.tls import expiry
from app.domain.errors import SettingsError
from app.kafka.admin_client import Group
from app.kafka.topics import TopicSpec
from app.ops.doctor import access, brokers
from app.ops.doctor.access import judge_certificate, judge_keys, judge_permissions
from app.ops.doctor.brokers import judge_broker, judge_cluster, release_of
from app.ops.doctor.findings import Finding, Mark, ok, problem, warning
from app.ops.doctor.group import judge_group, judge_lag
from app.ops.doctor.machine import (
    GIB,
    existing,
    judge_clock,
    judge_disk,
    judge_open_files,
    judge_versions,
    pinned,
)
from app.ops.doctor.printing import as_json, print_findings
from app.ops.doctor.run import examine
from app.ops.doctor.topics import judge_fence, judge_topic
from app.ops.doctor.worker import Answer, judge_worker
from tests.support.authority import Authority

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = TopicSpec("users", 2, -1, {"retention.ms": "1000", "cleanup.policy": "delete"})
CONFIG = {
    **SPEC.config,
    "min.insync.replicas": "1",
    "max.message.bytes": "1048588",
    "segment.ms": "7",
}


def marks(findings: Iterable[Finding]) -> list[str]:
    """Return how bad findings are."""
    return [finding.mark.value for finding in findings]


@pytest.mark.parametrize(
    ("files", "mark"), [(2_192, Mark.OK), (2_191, Mark.WARNING), (256, Mark.WARNING)]
)
def test_open_files_are_judged_by_the_connections_that_there_may_be(files: int, mark: Mark) -> None:
    assert judge_open_files(files, 192, 2_000).mark is mark


@pytest.mark.parametrize(
    ("free", "total", "mark"),
    [
        (100 * GIB, 200 * GIB, Mark.OK),
        (5 * GIB, 20 * GIB, Mark.OK),
        (5 * GIB - 1, 20 * GIB, Mark.WARNING),
        (10 * GIB, 101 * GIB, Mark.WARNING),
        (GIB, 2 * GIB, Mark.WARNING),
        (GIB - 1, 2 * GIB, Mark.PROBLEM),
    ],
)
def test_a_disk_is_judged_by_what_is_free(free: int, total: int, mark: Mark) -> None:
    assert judge_disk(free, total).mark is mark


def test_a_folder_that_is_not_there_yet_is_judged_by_what_is_above_it(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert existing(Path("not-there-at-all")) == Path.cwd()


def test_pins_are_read_from_what_the_package_requires() -> None:
    required = ["aiokafka[lz4,zstd]==0.14.0", "click>=8.1", 'jgo==1 ; extra == "local"']
    assert pinned(required) == {"aiokafka": "0.14.0"}


def test_other_versions_than_the_pinned_ones_are_problems() -> None:
    pins = {"a": "1", "b": "2"}
    assert marks(judge_versions((3, 11), pins, pins)) == ["ok"]
    (found,) = judge_versions((3, 11), pins, {"a": "1", "b": "3"})
    assert (found.mark, found.advice) == (Mark.PROBLEM, "install b==2")
    assert marks(judge_versions((3, 12), pins, pins)) == ["problem"]


@pytest.mark.parametrize(
    ("apart", "mark"),
    [(0, Mark.OK), (-2, Mark.OK), (3, Mark.WARNING), (-60, Mark.WARNING), (61, Mark.PROBLEM)],
)
def test_clocks_are_judged_by_how_far_they_are_apart(apart: float, mark: Mark) -> None:
    assert judge_clock(apart).mark is mark


@pytest.mark.parametrize(
    ("mode", "mark"),
    [(0o100600, "ok"), (0o100640, "warning"), (0o100644, "warning"), (0o100660, "problem")],
)
def test_secrets_are_their_owners(mode: int, mark: str) -> None:
    assert judge_permissions("KEYS_FILE", Path("keys"), mode).mark == mark


def test_a_folder_that_others_may_read_is_told() -> None:
    for mode in (0o755, 0o711, 0o2775):
        told = judge_permissions("DATA_DIR", Path("data"), stat.S_IFDIR | mode)
        assert (told.mark, told.advice) == (Mark.WARNING, "chmod 700 data")
    assert judge_permissions("DATA_DIR", Path("data"), stat.S_IFDIR | 0o700).mark is Mark.OK


def key(name: str, days: float | None, *scopes: Scope) -> Any:
    """Return a key that expires so many days after now."""
    _, made = new_key(name, frozenset(scopes or {Scope.ADMIN}), None)
    end = None if days is None else NOW + timedelta(days=days)
    return made.model_copy(update={"expires_at": end})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([], ["problem"]),
        ([("a", None)], ["ok"]),
        ([("a", 14.1)], ["ok"]),
        ([("a", 14)], ["warning", "ok"]),
        ([("a", 0)], ["warning", "problem"]),
        ([("a", -1), ("b", None)], ["warning", "ok"]),
    ],
)
def test_keys_are_judged_by_when_they_expire(
    keys: Sequence[tuple[str, float | None]], expected: list[str]
) -> None:
    assert marks(judge_keys([key(*each) for each in keys], NOW)) == expected


def test_an_expired_admin_key_counts_for_nothing() -> None:
    weak = next(scope for scope in Scope if scope is not Scope.ADMIN)
    found = list(judge_keys([key("old", -1), key("weak", None, weak)], NOW))
    assert marks(found) == ["warning", "warning"]
    assert "admin" in found[1].what


@pytest.mark.parametrize(
    ("days", "mark"), [(15, Mark.OK), (14, Mark.WARNING), (0, Mark.PROBLEM), (-1, Mark.PROBLEM)]
)
def test_certificates_are_judged_by_when_they_expire(days: int, mark: Mark) -> None:
    assert judge_certificate("TLS_CERT_FILE", NOW + timedelta(days=days), NOW).mark is mark


def test_the_expiry_of_a_certificate_is_read_from_its_file(tmp_path: Path) -> None:
    authority, end = Authority(tmp_path), datetime.now(UTC).replace(microsecond=0)
    authority.issue(not_after=end + timedelta(days=3))
    assert expiry(*authority.files) == end + timedelta(days=3)
    authority.issue(not_before=end - timedelta(days=2), not_after=end - timedelta(days=1))
    with pytest.raises(SettingsError, match="has expired"):
        expiry(*authority.files)


async def test_certificates_of_this_worker_and_of_others_are_looked_at(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue(not_after=datetime.now(UTC) + timedelta(days=3))
    cert, private_key = authority.files
    settings = Settings(tls_cert_file=cert, tls_key_file=private_key, tls_ca_file=authority.ca_file)
    assert marks(await access.certificates(settings)) == ["warning", "ok"]


@pytest.mark.parametrize(
    ("fetch", "release"), [(10, None), (12, None), (14, "3.1"), (17, "3.9"), (99, "4.1")]
)
def test_a_broker_is_as_old_as_the_requests_it_takes(fetch: int, release: str | None) -> None:
    assert release_of(fetch) == release


def test_a_broker_is_judged_by_its_age_and_speed() -> None:
    found = [
        judge_broker("a:1", 0.01, {1: 17}),
        judge_broker("a:1", 1.5, {1: 17}),
        judge_broker("a:1", 0.01, {}),
    ]
    assert marks(found) == ["ok", "warning", "problem"]


async def test_a_broker_that_accepts_and_says_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(brokers, "ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        (found,) = await brokers.check(Settings(kafka_brokers=address))
    assert found.what == f"{address} does not answer (TimeoutError)"


def test_what_fences_workers_must_survive_the_loss_of_a_broker() -> None:
    found = [
        *judge_fence("__consumer_offsets", 3, 2),
        *judge_fence("__consumer_offsets", 1, 1),
        *judge_fence("__transaction_state", 3, 1),
    ]
    assert marks(found) == ["problem"]
    assert found[0].what.startswith("__transaction_state: min.insync.replicas is 1")


def test_there_must_be_brokers_enough_for_the_copies() -> None:
    found = [judge_cluster(3, 3), judge_cluster(1, None), judge_cluster(2, 3)]
    assert marks(found) == ["ok", "warning", "problem"]


def partitions(*copies: int, leader: int = 1, missing: int = 0) -> list[Mapping[str, Any]]:
    """Return partitions with so many copies each, some of which are away."""
    return [
        {
            "partition": number,
            "leader": leader,
            "replicas": list(range(count)),
            "isr": list(range(count - missing)),
        }
        for number, count in enumerate(copies)
    ]


@pytest.mark.parametrize(
    ("there", "config", "expected"),
    [
        (partitions(1, 1), {}, ["ok"]),
        (partitions(3, 3), {"min.insync.replicas": "2"}, ["ok"]),
        (partitions(1, 1, 1), {}, ["problem: users has 3 partitions, and PARTITIONS is 2"]),
        (partitions(1, 1), {"cleanup.policy": "compact"}, ["problem: users: cleanup.policy"]),
        (partitions(1, 1), {"retention.ms": "9"}, ["problem: users: retention.ms is 9, not 1000"]),
        (
            partitions(1, 1),
            {"retention.ms": "9", "cleanup.policy": "compact"},
            [
                "problem: users: retention.ms is 9, not 1000",
                "problem: users: cleanup.policy is compact, not delete",
            ],
        ),
        (partitions(1, 1), {"max.message.bytes": "9"}, ["problem: users: max.message.bytes is 9"]),
        (partitions(1, 1), {"min.insync.replicas": "2"}, ["problem: users: min.insync.replicas"]),
        (partitions(3, 3), {}, ["warning: users: min.insync.replicas is 1"]),
        (partitions(1, 1, leader=-1), {}, ["problem: users: no broker leads partitions 0, 1"]),
        (
            partitions(3, 3, missing=1),
            {"min.insync.replicas": "2"},
            ["warning: users: copies of partitions 0, 1 are missing"],
        ),
    ],
)
def test_each_difference_of_a_topic_is_a_line(
    there: list[Mapping[str, Any]], config: Mapping[str, str], expected: list[str]
) -> None:
    found = judge_topic(SPEC, there, {**CONFIG, **config})
    told = [f"{each.mark}: {each.what}" for each in found]
    assert [line.startswith(begin) for line, begin in zip(told, expected, strict=True)] == [
        True
    ] * len(expected), told


def test_a_topic_with_other_copies_than_asked_for_is_told_of() -> None:
    asked = TopicSpec("users", 2, 3, SPEC.config)
    assert marks(judge_topic(asked, partitions(1, 1), CONFIG)) == ["warning"]


WANTED = [TopicPartition("users", number) for number in range(3)]


@pytest.mark.parametrize(
    ("state", "owned", "expected"),
    [
        ("Empty", [], ["warning"]),
        ("PreparingRebalance", [[]], ["warning"]),
        ("Stable", [WANTED[:2], WANTED[2:]], ["ok"]),
        ("Stable", [WANTED[:1], []], ["ok", "problem"]),
    ],
)
def test_a_group_is_judged_by_what_its_members_own(
    state: str, owned: list[list[TopicPartition]], expected: list[str]
) -> None:
    group = Group("registry", state, list(map(frozenset, owned)))
    assert marks(judge_group(group, WANTED)) == expected


def test_partitions_without_an_owner_are_named() -> None:
    group = Group("registry", "Stable", [frozenset(WANTED[1:2])])
    *_, found = judge_group(group, WANTED)
    assert found.what == "users: no worker owns partitions 0, 2"


def test_lag_is_told_by_partition() -> None:
    assert judge_lag("users", {0: 0, 1: 0}) == ok("users: nothing waits")
    assert judge_lag("users", {1: 2, 0: 3}).what == (
        "users: 5 records wait, by partition 0: 3, 1: 2"
    )
    assert judge_lag("users", {0: 10_001}).mark is Mark.WARNING
    assert judge_lag("users", dict.fromkeys(range(100), 1)).what.endswith("11: 1, …")


def test_a_worker_that_is_not_ready_tells_why() -> None:
    assert marks(judge_worker("here", Answer([], True, 0))) == ["ok"]
    found = judge_worker("here", Answer(["it joins", "it lags"], False, 0))
    assert [each.what[-8:] for each in found] == ["it joins", ": it lags"[-8:]]
    assert marks(judge_worker("here", Answer([], False, 0))) == ["problem"]


async def test_a_check_that_fails_is_a_problem_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def fail(_: Settings) -> Sequence[Finding]:
        raise ZeroDivisionError("ada@example.com")

    monkeypatch.setattr(access, "keys", fail)
    settings = Settings(data_dir=tmp_path, kafka_brokers="127.0.0.1:1")
    told = dict(await examine(settings))
    assert told["keys"].what == "could not be checked: unexpected ZeroDivisionError"
    assert told["disk"].what.startswith("DATA_DIR")


TOLD = [
    ("disk", ok("room " * 30)),
    ("keys", warning("key [bold]a[/] expires", "renew " * 30)),
    ("brokers", problem("away", "start it")),
]


def test_in_a_pipe_each_finding_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings(TOLD)
    heading, *lines, summary = capsys.readouterr().out.splitlines()
    assert heading.split() == ["mark", "area", "found", "what", "to", "do"]
    assert [line.split()[:2] for line in lines] == [
        ["ok", "disk"],
        ["warning", "keys"],
        ["problem", "brokers"],
    ]
    assert "key [bold]a[/] expires" in lines[1]
    assert summary == "problems: 1, warnings: 1"


def test_findings_are_json_for_programs() -> None:
    told = as_json(TOLD)
    assert (told["problems"], told["warnings"]) == (1, 1)
    assert told["findings"][2] == {
        "area": "brokers",
        "mark": "problem",
        "what": "away",
        "advice": "start it",
    }
    assert told["findings"][0]["advice"] is None
