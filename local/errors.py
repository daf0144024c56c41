"""Every error that a user of `make run` can meet: one root, one line each."""


class LocalError(Exception):
    """The root of the errors below; its text is the one line that a user reads."""

    #: What the command exits with. 2 stands for settings and surroundings, as click has it.
    exit_status = 2


class SettingsError(LocalError):
    """A setting is missing or malformed."""


class DataFolderError(LocalError):
    """A folder cannot be used: not ours, not writable or too little room."""


class PortTakenError(LocalError):
    """A port that is needed belongs to another program."""


class JarsError(LocalError):
    """Kafka's jars cannot be had, or are not the ones that were committed to."""


class BrokerError(LocalError):
    """The broker did not start, or does not answer."""


class WorkerError(LocalError):
    """The workers did not become ready."""


class AlreadyRunningError(LocalError):
    """Another `make run` has this data folder."""

    exit_status = 1


class CommandError(LocalError):
    """A command of the registry failed; its own line and exit status are passed on."""

    def __init__(self, line: str, exit_status: int) -> None:
        super().__init__(line)
        self.exit_status = exit_status
