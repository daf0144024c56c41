"""Email addresses: what one is, which are equal, and the key of one.

Write path, agents and lookups use this module, so they always agree. The rules here are frozen: a
change would change what a replay decides.
"""

import hashlib
import re
import unicodedata
from binascii import b2a_base64

#: Letters of an address beyond ASCII: everything but controls, white space, invisible marks,
#: surrogates, private use and non-characters of the Basic Multilingual Plane.
_BEYOND_ASCII = (
    "\u00a1-\u00ac\u00ae-\u061b\u061d-\u167f\u1681-\u180d\u180f-\u1fff\u2010-\u2027\u2030-\u205e"
    "\u2070-\u2fff\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufefe\uff00-\uffef\U00010000-\U000effff"
)
_ATOM = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~{_BEYOND_ASCII}-]+"
_EDGE = rf"[A-Za-z0-9{_BEYOND_ASCII}]"
_LABEL = rf"{_EDGE}(?:[A-Za-z0-9{_BEYOND_ASCII}-]{{0,61}}{_EDGE})?"

#: An email address: dot-atom, ``@``, at least two domain labels; spaces around it are tolerated
#: (they do not count when addresses are compared). No nested repetition: matching is linear.
#: Frozen, because a library's rule changes with its releases. Vectors: unit/test_addresses.py.
EMAIL_PATTERN = rf"^ *{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})+ *$"

#: A label in ASCII that stands for a label in Unicode begins with this (RFC 5890).
_ACE_PREFIX = "xn--"
_WHOLE_LABEL = re.compile(_LABEL)

#: The block of SHA-256, to which HMAC pads the secret.
_HMAC_BLOCK_BYTES = 64


def normalised(email: str) -> str:
    """Return the form of an address that counts: two addresses with the same form are equal."""
    text = _normalised_by_0_8(email)
    return _folded(_in_unicode(text)) if _ACE_PREFIX in text else text


def _normalised_by_0_8(email: str) -> str:
    return email.strip(" ").lower() if email.isascii() else _folded(email)


def _folded(email: str) -> str:
    folded = unicodedata.normalize("NFKC", email).strip(" ").casefold()
    # After case folding, NFKC may change the text once more (Unicode 3.13, D145).
    return unicodedata.normalize("NFKC", folded)


def _in_unicode(email: str) -> str:
    """Return an address with the labels of its domain in Unicode."""
    local, at, domain = email.rpartition("@")
    return local + at + ".".join(map(_label_in_unicode, domain.split(".")))


def _label_in_unicode(label: str) -> str:
    """Return the Unicode label for a label ``xn--…`` (RFC 3492); unchanged if there is none."""
    if not label.startswith(_ACE_PREFIX):
        return label
    try:
        found = label.removeprefix(_ACE_PREFIX).encode("ascii").decode("punycode")
    except UnicodeError:
        return label
    return label if found.isascii() or not _WHOLE_LABEL.fullmatch(found) else found


class EmailKeys:
    """Makes the key of an address: HMAC-SHA256 with the deployment's secret, in base64.

    So only the topic and the table of users hold plain addresses.
    """

    def __init__(self, secret: bytes) -> None:
        # RFC 2104. The states of hashlib are kept and copied: `hmac` costs two to four times as
        # much.
        block = hashlib.sha256(secret).digest() if len(secret) > _HMAC_BLOCK_BYTES else secret
        padded = block.ljust(_HMAC_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def key(self, email: str) -> bytes:
        """Return the key of an address: 44 ASCII characters."""
        return self._digest(normalised(email).encode())

    def key_of_0_8(self, email: str) -> bytes | None:
        """Return the key that 0.8 gave an address, if that is another key."""
        text = _normalised_by_0_8(email)
        if _ACE_PREFIX not in text or text == normalised(email):
            return None
        return self._digest(text.encode())

    def fingerprint(self) -> str:
        """Return a text that differs between secrets and reveals nothing else about them."""
        # This text is no address: it is not empty, and has a line end.
        return self._digest(b"\nfingerprint").decode()[:12]

    def _digest(self, message: bytes) -> bytes:
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return b2a_base64(outer.digest(), newline=False)
