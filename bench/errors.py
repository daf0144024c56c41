"""What can go wrong with a peer; the others are measured all the same."""


class PeerError(Exception):
    """The root of the errors below.

    Its text is the one line that the results show; ``detail`` may name paths, and is for the
    terminal only.
    """

    def __init__(self, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.detail = detail


class PeerSkipped(PeerError):  # noqa: N818  (nothing is wrong: this machine lacks something)
    """The peer cannot run on this machine."""


class PeerFailed(PeerError):  # noqa: N818  (as above)
    """The peer ended, or did not get anywhere."""
