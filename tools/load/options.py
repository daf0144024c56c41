"""The options of a run."""

import math
import re
import ssl
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from app.config.target import Target, check_key
from app.domain.errors import RegistryError

Mode = Literal["single", "batch", "ndjson", "trpc"]
MODES: tuple[Mode, ...] = get_args(Mode)
Coding = Literal["gzip", "zstd"]
CODINGS: tuple[Coding, ...] = get_args(Coding)

DEFAULT_DURATION_SECONDS = 10.0

#: Characters that need no escape anywhere. With a number behind it, it is the local part of an
#: address: 64 characters.
PREFIX_PATTERN = r"[A-Za-z0-9_-]{1,51}"


class LoadError(RegistryError):
    """A run cannot be made as asked, or nothing answers at the address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a run; docs/guides/load.md describes each."""

    url: str
    mode: Mode = "single"
    #: Registrations in a request, unless the mode is single.
    batch: int = 100
    #: How bodies are compressed; those of single registrations never are.
    compress: Coding | None = None
    #: Registrations a second on a fixed schedule; None: as fast as answers come.
    rate: float | None = None
    connections: int = 64
    #: One of these two ends the run. Without them, `DEFAULT_DURATION_SECONDS` does.
    duration: float | None = None
    registrations: int | None = None
    #: Seconds before counting begins.
    warmup: float = 1
    #: The share of registrations that repeat an earlier one.
    duplicates: float = 0
    prefix: str = field(default_factory=lambda: f"load-{uuid.uuid4().hex[:12]}")
    seed: int = 0
    name_bytes: int = 8
    #: How many times a refused request is sent again.
    retry: int = 0
    #: Seconds that an answer, or a connection, may take.
    timeout: float = 10
    key: str | None = field(default=None, repr=False)
    #: Certificates to trust, beside those of this machine.
    ca_file: Path | None = None
    #: Where to write the ids of acknowledged registrations.
    keep_ids: Path | None = None

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self._numbers())):
            raise LoadError("rate, seconds and shares must be finite numbers")
        if not re.fullmatch(PREFIX_PATTERN, self.prefix):
            raise LoadError("the prefix must be 1 to 51 letters, digits, '_' and '-'")
        check_key(self.key)
        if self.compress is not None and self.size == 1:
            raise LoadError("single registrations are not compressed: choose a mode with a batch")
        if self.duration is not None and self.registrations is not None:
            raise LoadError("a run ends by duration or by registrations, not by both")

    def _numbers(self) -> Iterator[float]:
        for name in ("rate", "duration", "warmup", "duplicates", "timeout"):
            yield getattr(self, name) or 0.0

    @property
    def target(self) -> Target:
        """The deployment."""
        return Target.parse(self.url)

    @property
    def size(self) -> int:
        """Registrations in a request."""
        return 1 if self.mode == "single" else self.batch

    @property
    def seconds(self) -> float | None:
        """For how long registrations are sent and counted; None: until there are enough."""
        if self.registrations is not None:
            return None
        return DEFAULT_DURATION_SECONDS if self.duration is None else self.duration

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context, None for http; raise `TargetError` for an unusable file."""
        return self.target.tls(self.ca_file)
