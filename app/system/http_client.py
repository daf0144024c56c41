"""Reads answers of other servers within bounded memory."""

import aiohttp


class AnswerTooLongError(Exception):
    """An answer has more bytes than the caller takes."""


async def read_body(answer: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """Return the body of an answer, or raise `AnswerTooLongError`."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > most_bytes:
            raise AnswerTooLongError
    return bytes(body)
