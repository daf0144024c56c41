"""An authority that issues certificates for workers on this machine, and replaces them."""

from datetime import UTC, datetime
from pathlib import Path

import trustme

Files = tuple[Path, Path]


#: When a certificate has expired that was made to have.
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Authority:
    """Issues certificates into two files; another one of the same ``ca`` has files of its own."""

    def __init__(self, folder: Path, ca: trustme.CA | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.ca = ca or trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        self.files: Files = folder / "cert.pem", folder / "key.pem"

    def issue(self, **more: object) -> None:
        """Replace the certificate and its key."""
        issued = self.ca.issue_cert("127.0.0.1", **more)  # type: ignore[arg-type]
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        for path, text in zip(self.files, (chain, issued.private_key_pem.bytes()), strict=True):
            new = path.with_suffix(".new")
            new.write_bytes(text)
            new.replace(path)
