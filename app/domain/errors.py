"""Every error that the registry raises on purpose. Each text is one line for users."""

from enum import StrEnum


class RegistryError(Exception):
    """The root of the errors below; its text is fit to be shown to a user."""

    #: What a command ends with that fails so.
    exit_status = 2


class SettingsError(RegistryError):
    """A setting is missing, malformed or contradicts another one."""


class TopicsError(RegistryError):
    """The topics cannot be had as the settings want them."""


class BrokerUnavailableError(RegistryError):
    """No broker answers; nothing was written."""


class KafkaAccessError(RegistryError):
    """A broker answers, and refuses this client: credentials, certificates or rights are wrong."""


class RefusedError(RegistryError):
    """Nothing was written, and nothing is wrong with it; it may come again, after a while."""

    def __init__(self, text: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds


class OverloadedError(RefusedError):
    """More comes than this worker may take."""


class TooManyRequestsError(RefusedError):
    """More comes from one client than it may send."""


class StaleRequestError(RefusedError):
    """A request may have waited for longer than its client; nothing was written."""


class OutcomeUnknownError(RegistryError):
    """A record was sent, but no acknowledgement came in time: it may or may not be written.

    If it is not written yet, it never will be: a retry comes after it.
    """


class OutcomeOpenError(RegistryError):
    """A record was sent, may or may not be written, and may even be written later."""


class RecordTooLargeError(RegistryError):
    """A record is larger than the broker takes."""


class InvalidPositionError(RegistryError):
    """A text is not a position token."""


class InvalidCursorError(RegistryError):
    """A text is no cursor that a list returned."""


class UnreadableRecordError(RegistryError):
    """A record holds nothing that can be applied; ``cause`` is a stable word for why."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class UnknownLetterError(RegistryError):
    """No dead letter is known of a position."""


class NotReplayedError(RegistryError):
    """A dead letter may not be replayed, for the reason in the text."""


class ApplyError(RegistryError):
    """Records cannot be applied, for a reason that is not theirs; the worker ends."""


class LostRecordsError(ApplyError):
    """A log does not have what is to be applied next: it is never stepped over; the worker ends."""


class LostChangelogError(ApplyError):
    """A changelog does not have what was applied: people decide what it is made of again."""


class DecisionError(ApplyError):
    """Deciding records fails, by a bug; ``place`` is their topic and partition; the worker ends."""

    def __init__(self, text: str, place: tuple[str, int]) -> None:
        super().__init__(text)
        self.place = place


class UndecidedError(ApplyError):
    """A transaction stays open, and nobody knows or may say how it ended; the worker ends."""


class StuckError(RegistryError):
    """Something makes no progress though nothing outside prevents it; the worker ends."""


class NotWrittenError(RegistryError):
    """A transaction may not have been committed; what it was to write must be tried again."""


class TooLargeError(NotWrittenError):
    """The broker refuses a batch as too large; nothing of the transaction was written."""


class FencedError(RegistryError):
    """Somebody else may own what was to be written; nothing of the transaction was written."""


class ReplacedError(FencedError):
    """Another worker has joined the group under this one's name; this one ends."""


class CorruptBatchError(ApplyError):
    """A batch of records is damaged, or of a kind that cannot be read; the worker ends."""


class StoreError(RegistryError):
    """The database on this machine cannot be read or written."""


class NotSettledError(RegistryError):
    """What was asked for waits for a write that is not settled in time."""


class Unavailable(StrEnum):
    """Why nobody can answer now: the same word in the 503, in a metric's label and in the log."""

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
        """The cause in words, without a full stop."""
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
    """Nobody can answer now; asking again later helps."""

    def __init__(self, cause: Unavailable) -> None:
        super().__init__(cause.sentence)
        self.cause = cause
