"""The lines of log files, in constant memory: plain, by gzip, or by zstd.

Rules:

1. A line is what stands before a newline, byte for byte. A carriage return or a byte order mark belongs to it.
2. Lines come in blocks, because a call for each would cost more than all the rest. What is no line of a log
   comes as a :class:`Trouble`, behind the lines before it.
3. A line above :data:`LINE_LIMIT` is never held, and bytes of zero neither: a program that writes by ``>`` and
   not ``>>`` leaves a hole of them when its file is truncated (logrotate's copytruncate). JSON has no such byte.
4. The first bytes of a file say how it is compressed, not its name.
"""

import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple, Protocol, TypeAlias

from mprelay.core.texts import missing

STDIN: Final = "-"
"""This name stands for the standard input."""

LINE_LIMIT: Final = 64 * 1024
"""Bytes of a line that is still one; the relay's own are below 4096."""

Kind: TypeAlias = Literal["long", "hole", "cut", "damaged", "trailing"]
"""What can be wrong with a file: a line above the limit, bytes of zero, an end in the middle of a line or of
compressed data, compressed data that is wrong, and bytes behind it that are something else."""

_CHUNK: Final = 256 * 1024  # bytes read at once
_SIP: Final = 512  # compressed bytes taken at once: they can become 130,000 times as many (zstd)
_GZIP: Final = (b"\x1f\x8b",)
_ZSTD: Final = (b"\x28\xb5\x2f\xfd", *(bytes([number]) + b"\x2a\x4d\x18" for number in range(0x50, 0x60)))
"""What a frame begins with, or one that is to be skipped (RFC 8878, section 3.1.2): pzstd writes such."""

_MAGIC: Final = 4  # bytes that tell


class Block(NamedTuple):
    """Lines of a file that follow each other, without their newlines."""

    file: str
    number: int
    """The number of the first line, counted from 1."""
    lines: list[bytes]


class Trouble(NamedTuple):
    """Something in a file that is no line."""

    file: str
    number: int
    """The line that it stands in, or before."""
    kind: Kind
    problem: str
    """What is wrong, as the end of a sentence about the line."""
    text: bytes = b""
    """Of a last line without a newline: the line as far as it goes."""


Piece: TypeAlias = Block | Trouble


class Unreadable(Exception):  # noqa: N818 - it says what is the matter
    """A file cannot be read at all; the text says which, and why."""


class _Decompressor(Protocol):
    """What zlib and zstandard have in common: one member (gzip) or frame (zstd)."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def read(files: Sequence[str]) -> Iterator[Piece]:
    """Read files, in the order given. Raises Unreadable."""
    for file in files:
        with opened(file) as stream:
            yield from pieces_of(file, stream)


@contextmanager
def opened(file: str) -> Iterator[BinaryIO]:
    """Open one file, once, as it may be a pipe. Raises Unreadable, also for an error while it is read."""
    try:
        with _opened(file) as stream:
            yield stream
    except OSError as failure:
        raise Unreadable(f"{file}: {failure.strerror or failure}") from None


def read_once(file: str) -> bool:
    """Tell whether a file can be read only once: the standard input, a pipe, or another that has no end."""
    if file == STDIN:
        return True
    try:
        mode = Path(file).stat().st_mode
    except OSError:  # whoever opens it is told why
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def whole(file: Path, limit: int, option: str) -> bytes:
    """Return all of a file, which an option has named, and which is small. Raises Unreadable."""
    try:
        with file.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as failure:
        raise Unreadable(f"{option} {file}: {failure.strerror or failure}") from None
    if len(data) > limit:
        raise Unreadable(f"{option} {file}: is too large")
    return data


def text(file: Path, limit: int, option: str) -> str:
    """Return the text of such a file, without a byte order mark. Raises Unreadable."""
    try:
        return whole(file, limit, option).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable(f"{option} {file}: is no text") from None


def _opened(file: str) -> AbstractContextManager[BinaryIO]:
    if file == STDIN:
        if sys.stdin is None:
            raise Unreadable("the standard input is closed")
        return nullcontext(sys.stdin.buffer)
    return Path(file).open("rb")


def pieces_of(file: str, stream: BinaryIO) -> Iterator[Piece]:
    """Read one file that is open already. Raises Unreadable."""
    splitter = _Splitter(file)
    first = stream.read(_MAGIC)
    chunks = _chunks(first, stream)
    if first.startswith(_GZIP):
        chunks = _decompressed(chunks, _gzip, _GZIP, zlib.error)
    elif first.startswith(_ZSTD):
        make, error = _zstd(file)
        chunks = _decompressed(chunks, make, _ZSTD, error)
    try:
        for chunk in chunks:
            yield from splitter.feed(chunk)
    except _Wrong as wrong:
        yield from splitter.wrong(wrong)
    else:
        yield from splitter.end()


def _chunks(first: bytes, stream: BinaryIO) -> Iterator[bytes]:
    if first:
        yield first
        while chunk := stream.read(_CHUNK):
            yield chunk


class _Wrong(Exception):  # noqa: N818 - it says what is the matter
    """Compressed data ends too early, is damaged, or something else follows it."""

    def __init__(self, kind: Kind, problem: str) -> None:
        super().__init__(problem)
        self.kind: Kind = kind


def _gzip() -> _Decompressor:
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


def _zstd(file: str) -> tuple[Callable[[], _Decompressor], type[Exception]]:
    try:
        import zstandard  # noqa: PLC0415 - only for a file that needs it, and only where it is installed
    except ImportError as failure:
        raise Unreadable(f"{file}: is compressed by zstd, and {missing('seal', failure)}") from None
    library: Any = zstandard
    return library.ZstdDecompressor().decompressobj, library.ZstdError


def _decompressed(
    chunks: Iterator[bytes], make: Callable[[], _Decompressor], magics: tuple[bytes, ...], error: type[Exception]
) -> Iterator[bytes]:
    """Decompress members that follow each other. Raises _Wrong, when all before it was given."""
    member: _Decompressor | None = make()
    rest = b""  # what stands between two members, as far as it does not tell yet what it is
    for chunk in chunks:
        for start in range(0, len(chunk), _SIP):
            sip = rest + chunk[start : start + _SIP]
            rest = b""
            while sip:
                if member is None:
                    sip = sip.lstrip(b"\0")  # padding, to the size of a block
                    if any(magic.startswith(sip) and magic != sip for magic in magics):
                        rest = sip
                        break
                    if not sip.startswith(magics):
                        raise _Wrong("trailing", "is followed by bytes that are not compressed")
                    member = make()
                try:
                    data = member.decompress(sip)
                except error as wrong:
                    raise _Wrong("damaged", f"is followed by damaged compressed data ({wrong})") from None
                for begin in range(0, len(data), _CHUNK):  # a block of short lines takes many times its bytes
                    yield data[begin : begin + _CHUNK]
                sip = b""
                if member.eof:
                    sip, member = member.unused_data, None
    if rest:
        raise _Wrong("trailing", "is followed by bytes that are not compressed")
    if member is not None:
        raise _Wrong("cut", "is where the compressed data ends too early")


class _Splitter:
    """Makes blocks of lines out of the bytes of one file."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._number = 1  # of the line that `_begun` begins
        self._begun = b""
        self._skipped = 0  # bytes of this line which are not held, as it is too long
        self._zeros = 0
        self._hole = 0  # the line where they began

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """Take the bytes that come next."""
        if b"\0" in chunk:
            chunk = self._without_zeros(chunk)
        if self._skipped:
            head, newline, chunk = chunk.partition(b"\n")
            self._skipped += len(head)
            if not newline:
                return
            yield from self._too_long()
        lines = chunk.split(b"\n")
        lines[0] = self._begun + lines[0]
        self._begun = lines.pop()
        if lines:
            if self._hole < self._number + len(lines):
                yield from self._hole_before()
            yield from self._blocks(lines)
        if len(self._begun) > LINE_LIMIT:
            self._skipped, self._begun = len(self._begun), b""

    def end(self) -> Iterator[Piece]:
        """Take the end of the file."""
        yield from self._hole_before()
        if self._skipped:
            yield from self._too_long()
        elif self._begun:
            yield self._trouble("cut", "is cut off: it has no newline", self._begun)

    def wrong(self, wrong: _Wrong) -> Iterator[Piece]:
        """Take what is wrong with the compressed data, in the place of the file's end."""
        yield from self._hole_before()
        if self._skipped:
            yield from self._too_long()
        yield self._trouble(wrong.kind, str(wrong), self._begun)

    def _blocks(self, lines: list[bytes]) -> Iterator[Piece]:
        """Give whole lines. Those that are too long, and came in one chunk, are rare."""
        first = 0
        if max(map(len, lines)) > LINE_LIMIT:
            for place, line in enumerate(lines):
                if len(line) > LINE_LIMIT:
                    yield from self._block(lines[first:place])
                    self._skipped = len(line)
                    yield from self._too_long()
                    first = place + 1
        yield from self._block(lines[first:] if first else lines)

    def _block(self, lines: list[bytes]) -> Iterator[Piece]:
        if lines:
            yield Block(self._file, self._number, lines)
            self._number += len(lines)

    def _too_long(self) -> Iterator[Piece]:
        yield self._trouble("long", f"is too long to be a record: {self._skipped} bytes")
        self._number += 1
        self._skipped = 0

    def _without_zeros(self, chunk: bytes) -> bytes:
        if not self._zeros:
            self._hole = self._number + chunk.count(b"\n", 0, chunk.index(b"\0"))
        rest = chunk.translate(None, b"\0")
        self._zeros += len(chunk) - len(rest)
        return rest

    def _hole_before(self) -> Iterator[Piece]:
        if self._zeros:
            problem = (
                f"has {self._zeros} bytes of zero: a hole, as a truncated file gets it from a program that "
                "writes by `>`; let the relay append to its file, by `>>`"
            )
            yield Trouble(self._file, self._hole, "hole", problem)
            self._zeros = 0

    def _trouble(self, kind: Kind, problem: str, text: bytes = b"") -> Trouble:
        return Trouble(self._file, self._number, kind, problem, text)
