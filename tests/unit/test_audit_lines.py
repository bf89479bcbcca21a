"""The lines of log files: however they are compressed, cut or damaged."""

import gzip
import io
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.audit import lines
from mprelay.audit.lines import LINE_LIMIT, Block, Trouble, Unreadable

zstandard = pytest.importorskip("zstandard", reason="scripts/test-windows does not install it")

LINES = [f'{{"seq":{number},"text":"{"x" * (number % 400)}"}}'.encode() for number in range(5000)]
DATA = b"\n".join(LINES) + b"\n"
COMPRESSED = {"gzip": gzip.compress(DATA), "zstd": zstandard.compress(DATA)}

each_compression = pytest.mark.parametrize("how", COMPRESSED)


class Read:
    """What was read of some files: lines with their places, and troubles."""

    def __init__(self, *files):
        self.lines, self.places, self.troubles = [], [], []
        for piece in lines.read([*map(str, files)]):
            if isinstance(piece, Block):
                assert piece.lines
                self.places += [(piece.file, piece.number + place) for place in range(len(piece.lines))]
                self.lines += piece.lines
            else:
                self.troubles.append(piece)

    @property
    def kinds(self):
        """Where something is wrong, and what."""
        return [(trouble.number, trouble.kind) for trouble in self.troubles]


@pytest.fixture
def written(tmp_path):
    """Writes a file of some bytes; returns its path."""

    def write(data, name="log"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@each_compression
def test_short_lines_come_in_small_blocks_however_they_were_compressed(how, written):
    """A list of them takes many times their bytes, and 500 compressed bytes can hold millions of them."""
    data = b"\n" * 2**21
    path = written(gzip.compress(data) if how == "gzip" else zstandard.compress(data))
    sizes = [len(piece.lines) for piece in lines.read([str(path)]) if isinstance(piece, Block)]
    assert (sum(sizes), max(sizes) <= 2**18) == (2**21, True)


@each_compression
def test_a_long_line_is_told_also_where_the_compressed_data_ends_too_early(how, written):
    """Such an end alone means that somebody may be writing; a line above the limit is no record."""
    long = DATA + bytes(number % 251 + 4 for number in range(10 * LINE_LIMIT)).replace(b"\n", b"")
    whole = gzip.compress(long) if how == "gzip" else zstandard.ZstdCompressor(write_checksum=True).compress(long)
    assert Read(written(whole[:-2])).kinds == [(5001, "long"), (5002, "cut")]


@pytest.mark.parametrize("first", [0x50, 0x5F])
def test_frames_that_are_to_be_skipped_are(first, written):
    """By pzstd each frame has one before it, with its size."""
    skipped = bytes([first]) + b"\x2a\x4d\x18" + b"\x04\0\0\0" + b"size"
    half = len(DATA) // 2
    data = b"".join(skipped + zstandard.compress(part) for part in (DATA[:half], DATA[half:]))
    for behind in (b"", skipped, bytes(9) + skipped):
        read = Read(written(data + behind))
        assert (read.lines, read.troubles) == (LINES, [])
    assert Read(written(data + skipped[:-1])).kinds == [(5001, "cut")]
    assert Read(written(data + skipped[:3])).kinds == [(5001, "trailing")]


def test_plain_lines_have_files_and_numbers(written):
    one, two = written(b"a\nb\r\n\n", "1"), written(b"\xef\xbb\xbfc\n", "2")
    read = Read(one, two)
    assert read.lines == [b"a", b"b\r", b"", b"\xef\xbb\xbfc"]
    assert read.places == [(str(one), 1), (str(one), 2), (str(one), 3), (str(two), 1)]
    assert read.troubles == []


def test_an_empty_file_has_none(written):
    read = Read(written(b""))
    assert (read.lines, read.troubles) == ([], [])


def test_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(COMPRESSED["gzip"])))
    read = Read("-")
    assert read.lines == LINES
    assert read.places[0] == ("-", 1)


@each_compression
@pytest.mark.parametrize("padding", [b"", bytes(512)], ids=["bare", "padded"])
def test_members_follow_each_other(written, how, padding):
    """As `cat a.gz b.gz` makes them; a block device pads them with zeros."""
    read = Read(written((COMPRESSED[how] + padding) * 3))
    assert read.lines == LINES * 3
    assert read.troubles == []


@each_compression
@pytest.mark.parametrize("size", [5, 100, -1])
def test_a_cut_archive_gives_what_is_left(written, how, size):
    read = Read(written(COMPRESSED[how][:size]))
    assert read.lines == LINES[: len(read.lines)]
    (trouble,) = read.troubles
    assert trouble.kind == "cut"
    assert trouble.number == len(read.lines) + 1


@each_compression
@pytest.mark.parametrize("more", [b"more", b"\x1f", b"\x28\xb5\x2f", b"\0\0\0more"])
def test_what_follows_an_archive_is_named(written, how, more):
    read = Read(written(COMPRESSED[how] + more))
    assert read.lines == LINES
    assert [kind for _, kind in read.kinds] in (["trailing"], ["cut"])  # a beginning may be of one more member


@each_compression
def test_a_damaged_archive_is_named(written, how):
    data = bytearray(COMPRESSED[how])
    data[len(data) // 2 : len(data) // 2 + 64] = b"\xff" * 64
    read = Read(written(data))
    assert read.lines[:1000] == LINES[:1000]
    assert read.troubles[-1].kind == "damaged"


def test_zstd_without_its_library(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(
        Unreadable,
        match=r"log: is compressed by zstd, and needs a library that is missing: pip install 'mprelay\[seal\]'",
    ):
        Read(written(COMPRESSED["zstd"]))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(Unreadable, match=f"^{tmp_path}: "):
        Read(tmp_path)
    with pytest.raises(Unreadable, match="missing: No such file"):
        Read(tmp_path / "missing")


def test_a_last_line_without_a_newline_is_cut(written):
    path = written(b"a\nb")
    assert Read(path).lines == [b"a"]
    assert Read(path).troubles == [Trouble(str(path), 2, "cut", "is cut off: it has no newline", b"b")]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("size", [LINE_LIMIT + 1, 3_000_000])
def test_a_line_that_is_too_long_is_named_and_left_out(written, place, size):
    given = [b"a", b"b"]
    given.insert(place, b"x" * size)
    read = Read(written(b"\n".join(given) + b"\n"))
    assert read.lines == [b"a", b"b"]
    assert [number for _, number in read.places] == [number for number in (1, 2, 3) if number != place + 1]
    (trouble,) = read.troubles
    assert (trouble.number, trouble.kind) == (place + 1, "long")
    assert str(size) in trouble.problem


def test_the_longest_line(written):
    read = Read(written(b"x" * LINE_LIMIT + b"\n"))
    assert (len(read.lines), read.troubles) == (1, [])
    assert Read(written(b"x" * (LINE_LIMIT + 1))).kinds == [(1, "long")]


@pytest.mark.parametrize("size", [1, 100, 10_000_000])
def test_a_hole_is_named_and_its_line_is_the_line_behind_it(written, size):
    read = Read(written(b"a\n" + bytes(size) + b"b\nc\n"))
    assert read.lines == [b"a", b"b", b"c"]
    (trouble,) = read.troubles
    assert (trouble.number, trouble.kind) == (2, "hole")
    assert f"{size} bytes" in trouble.problem
    assert "`>>`" in trouble.problem


def test_a_hole_at_the_end(written):
    assert Read(written(b"a\n" + bytes(9))).kinds == [(2, "hole")]
    assert Read(written(bytes(9))).kinds == [(1, "hole")]


def test_memory_stays_the_same(written):
    """A bomb of one line, a hole, and a line without an end."""
    bombs = [gzip.compress(bytes(100_000_000)), zstandard.compress(b"x" * 200_000_000), b"x" * 20_000_000]
    paths = [written(data, str(number)) for number, data in enumerate(bombs)]
    del bombs
    tracemalloc.start()
    try:
        read = Read(*paths)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [trouble.kind for trouble in read.troubles] == ["hole", "long", "long"]
    assert peak < 50_000_000


@given(st.lists(st.binary(max_size=20)), st.integers(1, 30))
def test_chunks_make_no_difference(parts, size):
    """Whatever the bytes are, and however they come."""
    data = b"".join(parts).replace(b"\0", b"\n")
    splitter = lines._Splitter("log")
    pieces = [piece for at in range(0, len(data), size) for piece in splitter.feed(data[at : at + size])]
    pieces += splitter.end()
    found = [line for piece in pieces if isinstance(piece, Block) for line in piece.lines]
    rest = [piece.text for piece in pieces if isinstance(piece, Trouble)]
    assert b"\n".join([*found, *(rest or [b""])]) == data
    numbers = [piece.number + place for piece in pieces for place in range(len(getattr(piece, "lines", [0])))]
    assert numbers == [*range(1, len(numbers) + 1)]
