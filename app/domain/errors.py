"""Every error that the registry raises on purpose. Each text is one line for users."""

from enum import StrEnum


class RegistryError(Exception):
    """The root of the errors below. Users may read its text."""

    #: The exit status of a command that ends with this error.
    exit_status = 2


class SettingsError(RegistryError):
    """A setting is missing, malformed or contradicts another one."""


class TopicsError(RegistryError):
    """The topics cannot be made as the settings want them."""


class BrokerUnavailableError(RegistryError):
    """No broker answers; nothing was written."""


class KafkaAccessError(RegistryError):
    """A broker answers, and refuses this client: credentials, certificates or rights are wrong."""


class RefusedError(RegistryError):
    """Nothing was written. The request is valid, and may be sent again after a while."""

    def __init__(self, text: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds


class OverloadedError(RefusedError):
    """The worker gets more than it may take."""


class TooManyRequestsError(RefusedError):
    """One client sends more than it may."""


class StaleRequestError(RefusedError):
    """The request waited for longer than its client may have. Nothing was written."""


class OutcomeUnknownError(RegistryError):
    """A record was sent, and no acknowledgement came in time. It may be written or not.

    If it is not written yet, it will never be: a retry is always the later record.
    """


class OutcomeOpenError(RegistryError):
    """A record was sent. It may be written or not, and may even be written later."""


class RecordTooLargeError(RegistryError):
    """A record is larger than the broker's limit."""


class InvalidPositionError(RegistryError):
    """A text is not a position token."""


class InvalidCursorError(RegistryError):
    """A text is not a cursor of a list, or of a feed."""


class LostOutcomesError(RegistryError):
    """Retention has removed outcomes that a reader has not read yet."""


class UnreadableRecordError(RegistryError):
    """A record holds nothing that can be applied; ``cause`` is a stable word for the reason."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class UnknownLetterError(RegistryError):
    """There is no dead letter at a position."""


class NotReplayedError(RegistryError):
    """A dead letter may not be replayed. The text has the reason."""


class ApplyError(RegistryError):
    """Records cannot be applied, and the records are not the reason. The worker ends."""


class LostRecordsError(ApplyError):
    """A log does not have the next record to apply. It is not skipped: the worker ends."""


class LostChangelogError(ApplyError):
    """A changelog does not have what was applied. An operator decides how to restore it."""


class DecisionError(ApplyError):
    """Deciding records fails because of a bug; ``place`` is topic and partition.

    The worker ends.
    """

    def __init__(self, text: str, place: tuple[str, int]) -> None:
        super().__init__(text)
        self.place = place


class UndecidedError(ApplyError):
    """A transaction stays open, and nobody can find out how it ended. The worker ends."""


class StuckError(RegistryError):
    """Something makes no progress although nothing outside prevents it. The worker ends."""


class NotWrittenError(RegistryError):
    """A transaction may not be committed. What it should write must be tried again."""


class TooLargeError(NotWrittenError):
    """The broker refuses a batch as too large. Nothing of the transaction was written."""


class FencedError(RegistryError):
    """Another worker may own the partitions. Nothing of the transaction was written."""


class ReplacedError(FencedError):
    """Another worker has joined the group under this worker's name. This worker ends."""


class CorruptBatchError(ApplyError):
    """A batch of records is damaged, or of an unknown kind. The worker ends."""


class StoreError(RegistryError):
    """The database on this machine cannot be read or written."""


class NotSettledError(RegistryError):
    """The caller waits for a write that is not settled in time."""


class Unavailable(StrEnum):
    """Why nobody can answer now. The 503, the metric label and the log use the same word."""

    RECOVERING = "recovering"
    REBALANCING = "rebalancing"
    LEASE_EXPIRED = "lease-expired"
    OWNER_UNREACHABLE = "owner-unreachable"
    INCOMPATIBLE_ANSWER = "incompatible-answer"
    STALE_COPY = "stale-copy"
    BROKER_SLOW = "broker-slow"
    STOPPING = "stopping"

    @property
    def sentence(self) -> str:
        """The cause as a sentence, without a full stop."""
        return _CAUSES[self]


_CAUSES = {
    Unavailable.RECOVERING: "the owner of the partition restores it from the changelog",
    Unavailable.REBALANCING: "partitions are moving between workers",
    Unavailable.LEASE_EXPIRED: "no broker confirms that the owner is still in its group",
    Unavailable.OWNER_UNREACHABLE: "the owner of the partition does not answer",
    Unavailable.INCOMPATIBLE_ANSWER: "the owner gave an answer that this worker cannot use",
    Unavailable.STALE_COPY: "only a copy was found, and it may lack the newest writes",
    Unavailable.BROKER_SLOW: "the brokers did not answer in time",
    Unavailable.STOPPING: "this worker is stopping",
}


class NotReadyError(RegistryError):
    """Nobody can answer now. A later retry helps."""

    def __init__(self, cause: Unavailable) -> None:
        super().__init__(cause.sentence)
        self.cause = cause
