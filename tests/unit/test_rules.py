"""The ACL as people write it: lists, files, and everything that is wrong with them."""

import errno
import os
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprelay.config.host import Host
from mprelay.config.rules import (
    WRONG_LIMIT,
    Rules,
    Wrong,
    WrongRulesError,
    changes,
    read_proxies,
    reread,
)
from mprelay.config.sources import ARGUMENT, Given
from mprelay.config.validation import validate

RULES = str(PurePath("/etc/rules"))  # in the form of this system
GOOD = {"fwd_port": ["8080"], "trg_host": ["192.0.2.1"], "trg_port": ["80"]}


def no_file(path):
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def entries(text, files=None, **how):
    """The entries of an ACL whose files have these bytes, as canonical texts."""
    read = no_file if files is None else files.__getitem__
    return [str(entry) for entry in Rules.of(text, "/etc").entries(read, **how)]


def wrong(text, files=None, **how):
    """What is wrong with an ACL."""
    with pytest.raises(WrongRulesError) as failure:
        entries(text, files, **how)
    return list(failure.value.wrong)


def test_a_list_is_its_entries_in_their_order():
    assert entries("!10.1.2.3/16,any,::1/128") == ["!10.1.0.0/16", "ANY", "::1/128"]
    assert not Rules.of("any", "/").has_files


def test_a_file_stands_for_its_lines():
    more = str(PurePath("/srv/more"))
    files = {RULES: b"10.0.0.0/8 # office\n\n \t# nothing\n!ANY", more: b"\xef\xbb\xbf::1/128\r\n"}
    text = "@rules,192.0.2.0/24,@/srv/more"
    assert entries(text, files) == ["10.0.0.0/8", "!ANY", "192.0.2.0/24", "::1/128"]
    rules = Rules.of(text, "/etc")
    assert (rules.written, rules.items, rules.has_files) == (
        text,
        (f"@{RULES}", "192.0.2.0/24", f"@{more}"),
        True,
    )


@pytest.mark.parametrize("content", [b"", b"\n", b"# nobody\n"])
def test_a_file_without_an_entry_lets_nobody_in(content):
    loaded = Rules.of("@rules", "/etc").load({RULES: content}.__getitem__)
    assert len(loaded.acl) == 0
    assert not loaded.acl.decide("127.0.0.1").allowed


def test_every_wrong_entry_has_its_place():
    found = wrong("10.0.0.1,@rules,x", {RULES: b"ANY\n@other\n\n10.0.0.0/33 # too long\n"})
    assert [(one.file, one.line, one.text) for one in found] == [
        (None, None, "10.0.0.1"),
        (RULES, 2, "@other"),
        (RULES, 4, "10.0.0.0/33"),
        (None, None, "x"),
    ]
    assert [one.place for one in found] == ["", f"line 2 of {RULES!r}", f"line 4 of {RULES!r}", ""]
    assert "no file names another" in found[1].problem


def test_only_so_many_wrong_entries_are_told():
    """Nothing is read behind them."""
    assert [one.text for one in wrong(",".join(["x"] * 20 + ["@rules"]), {})] == ["x"] * WRONG_LIMIT
    assert len(wrong("@rules,@rules", {RULES: b"x\n" * 6})) == WRONG_LIMIT
    assert len(wrong("@rules", {RULES: b"x\n" * 1000})) == WRONG_LIMIT


@pytest.mark.parametrize("item", ["", "@", "10.0.0.0/8,", ",any"])
def test_an_item_must_not_be_empty(item):
    (one,) = wrong(item)
    assert one.line is None


def test_a_file_that_cannot_be_read_is_told():
    (one,) = wrong("@rules")
    assert one == Wrong(RULES, None, f"@{RULES}", "cannot be read: No such file or directory")
    (one,) = wrong("@rules", {RULES: b"any\xff"})
    assert one.problem == "is not UTF-8: its byte 4 belongs to no character"
    (one,) = wrong("@rules", {RULES: "any".encode("utf-16")})
    assert one.problem == "is UTF-16, and must be UTF-8"


@pytest.mark.parametrize(
    "text", ["10.0.0.0/8\r\nany\r\n", "\ufeff10.0.0.0/8\nany", "\ufeff10.0.0.0/8\r\n# x\r\nany"]
)
def test_a_byte_order_mark_and_crlf_lose_no_entry(text):
    """Editors and shells of Windows write them."""
    rules = Rules.of("@rules", "/work")
    assert [str(entry) for entry in rules.entries(lambda _path: text.encode())] == ["10.0.0.0/8", "ANY"]


def test_nothing_of_a_file_is_shown_to_whom_it_does_not_belong():
    (one,) = wrong("@rules", {RULES: b"root:secret\n"}, quotes=False)
    assert one == Wrong(RULES, 1, None, "must be an entry")


@given(st.binary(max_size=60))
def test_any_file_is_a_list_or_wrong(content):
    """There is no other error, and none of the wrong ones is told without its line."""
    lines = content.count(b"\n") + 1
    try:
        assert len(entries("@rules", {RULES: content})) <= lines
    except WrongRulesError as failure:
        told = [one.line for one in failure.wrong]
    else:
        told = [1]
    assert told == [None] or 0 < len(told) <= lines


def test_changes_are_counted_whatever_the_form_and_the_order():
    def digests(text):
        return Rules.of("@rules", "/etc").load({RULES: text}.__getitem__).digests

    before = digests(b"10.1.2.3/8\n!ANY\n::1/128\n")
    assert changes(before, digests(b"::1/128\n10.0.0.0/255.0.0.0\n!any\n")) == (0, 0)
    assert changes(before, digests(b"::1/128\n10.0.0.0/255.0.0.0\nany\n")) == (1, 1)
    assert changes(before, digests(b"")) == (0, 3)
    assert len(Rules.of("ANY", "/").load(no_file).digests) == 0


def validated(acl, host):
    """What validation says about an ACL."""
    texts = GOOD | {"acl": [acl]}
    return validate({name: [Given(text, ARGUMENT) for text in texts[name]] for name in texts}, host)[1]


def test_validation_tells_each_wrong_entry():
    """The value is the entry. In a sentence the place follows it."""
    host = Host(directory="/etc", read_file={RULES: b"ANY\n10.0.0.1\n"}.__getitem__)
    one, other = validated("x,@rules", host)
    assert (one.parameter, one.value, one.message.msg_id) == ("acl", "x", 5)
    assert (other.parameter, other.value, other.message.msg_id) == ("acl", "10.0.0.1", 5)
    assert one.problem.startswith("<ACL> 'x' must be ANY")
    assert other.problem.startswith(f"<ACL> '10.0.0.1' in line 2 of {RULES!r} has no mask")
    (hidden,) = validated("@rules", host._replace(quotes_files=False))
    assert (hidden.value, hidden.problem) == (None, f"<ACL> in line 2 of {RULES!r} must be an entry.")
    (unknown,) = validated("@rules", Host())
    assert "cannot be read" in unknown.problem


def test_rules_are_read_again_as_a_whole_or_not_at_all():
    files = {RULES: b"10.0.0.0/8\n!ANY\n"}
    rules = Rules.of("@rules", "/etc")
    before = rules.load(files.__getitem__).digests
    files[RULES] = b"10.0.0.0/8\n192.0.2.0/24\n::1/128\n"
    found = reread(rules, before, files.__getitem__, quotes=True)
    assert (len(found.loaded.acl), found.added, found.removed, found.wrong) == (3, 2, 1, ())
    files[RULES] = b"10.0.0.0/8\nx\ny\n"
    found = reread(rules, before, files.__getitem__, quotes=False)
    assert (found.loaded, found.added, found.removed) == (None, 0, 0)
    assert [(wrong.line, wrong.text) for wrong in found.wrong] == [(2, None), (3, None)]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("10.0.0.0/8,192.0.2.1/32", []),
        ("0.0.0.0/0", ["0.0.0.0/0"]),
        ("192.0.2.0/33,198.51.100.0/24,x/8", ["192.0.2.0/33", "x/8"]),
        ("192.0.2.0/24,", ["192.0.2.0/24,"]),
        (",".join("x" * (WRONG_LIMIT + 5)), ["x"] * WRONG_LIMIT),
    ],
)
def test_each_wrong_proxy_of_a_list_is_told(text, wrong):
    """An empty one by the list that it stands in."""
    if wrong:
        with pytest.raises(WrongRulesError) as told:
            read_proxies(text)
        assert [one.text for one in told.value.wrong] == wrong
    else:
        assert read_proxies(text).decide("10.1.2.3").allowed
        assert not read_proxies(text).decide("192.0.2.2").allowed
