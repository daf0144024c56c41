"""An authority that issues certificates for workers on this machine, and replaces them."""

from pathlib import Path

import trustme

Files = tuple[Path, Path]


class Authority:
    """Issues certificates into two files."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
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
