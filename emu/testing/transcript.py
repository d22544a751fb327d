# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest has sent, as the text that a person reads.

UTF-8 is decoded, what is none becomes the replacement character. Carriage returns and the ANSI
sequences that colour a terminal are left out. How the bytes were cut into pieces makes no
difference, except at the very end: an incomplete character or sequence waits for the rest of it.
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder

__all__ = ["Transcript"]

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?)?$")
_LONGEST = 256  # characters: no sequence is longer; a lone ESC does not hold text back for ever


class Transcript:
    """The text of a stream of bytes.

    >>> log = Transcript()
    >>> log.feed(b"\\x1b[32mtest \\xc3")
    >>> log.feed(b"\\xa4\\x1b[")
    >>> log.feed(b"0m ok\\r\\n")
    >>> log.text
    'test ä ok\\n'
    """

    def __init__(self) -> None:
        self.sent = bytearray()
        """The bytes as they were sent."""
        self._read = 0
        self._held = ""
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._pieces: list[str] = []

    def feed(self, data: bytes) -> None:
        """Take bytes. Cheap: nothing is decoded before somebody reads `text`."""
        self.sent += data

    @property
    def text(self) -> str:
        """All text so far; linear in what came since the last call."""
        if self._read < len(self.sent):
            fresh = bytes(self.sent[self._read :])
            self._read = len(self.sent)
            self._pieces = ["".join((*self._pieces, self._clean(self._decoder.decode(fresh))))]
        return self._pieces[0] if self._pieces else ""

    def _clean(self, text: str) -> str:
        text = self._held + text
        unfinished = _UNFINISHED.search(text, max(len(text) - _LONGEST, 0))
        self._held = text[unfinished.start() :] if unfinished else ""
        if unfinished:
            text = text[: unfinished.start()]
        return _ESCAPE.sub("", text).replace("\r", "")
