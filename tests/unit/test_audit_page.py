"""The report as people see it: nothing from a log becomes markup, or an order to a terminal."""

import base64
import hashlib
import io
import re
import sys
from html.parser import HTMLParser

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: rich, which scripts/test-windows does not install", allow_module_level=True)

from hypothesis import given, settings
from hypothesis import strategies as st
from support.logs import Writer, usual_run

from mprelay.audit import printed, report, seals, sections, story
from mprelay.audit.markup import tag, together
from mprelay.audit.page import POLICY, page
from mprelay.audit.run import Fault, Place, RunVerdict
from mprelay.audit.totals import Totals
from mprelay.ctl.figures import escaped

READ = {
    "files": [{"file": "a.log", "records": 20, "other_lines": 0}],
    "troubles": [],
    "troubles_count": 0,
    "hints": [],
}
WHOLE = RunVerdict("r1", "whole", 20, 20, 1, "2026-11-26T12:00:00.000000Z", "KEY=", signer_known=True, fault=None)
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "a", "h1", "h2", "h3", "div", "strong", "p", "main"),
    *(
        "section",
        "ul",
        "li",
        "dl",
        "dt",
        "dd",
        "figure",
        "figcaption",
        "svg",
        "path",
        "span",
        "details",
        "summary",
    ),
    *("table", "thead", "tbody", "tr", "th", "td", "small", "code", "time", "footer"),
}


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, data):
        super().__init__()
        self.tags = set()
        self.attributes = set()
        self.ids = []
        self.links = []
        self.texts = []
        self.comments = 0
        self.feed(data.decode())
        self.close()
        self.text = "".join(self.texts)

    def handle_starttag(self, name, given):
        """Note an element."""
        self.tags.add(name)
        self.attributes |= {key for key, _ in given}
        self.ids += [value for key, value in given if key == "id"]
        self.links += [value for key, value in given if key in {"href", "src", "aria-labelledby"}]

    def handle_data(self, data):
        """Note a text."""
        self.texts.append(data)

    def handle_comment(self, _data):
        """Note a comment."""
        self.comments += 1


def told(*runs, verdicts=None, **read):
    """The report of runs."""
    made = Totals()
    for run in runs:
        for record in run.records:
            made.add(record)
    return report.make(made, verdicts or {}, READ | read)


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    """No cell of a text is folded."""
    monkeypatch.setenv("COLUMNS", "400")


def text_of(made, encoding="utf-8"):
    """The report as text."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    printed.show(made, stream)
    stream.seek(0)
    return stream.read()


def test_text_becomes_no_markup():
    assert tag("p", "<b>&", None, tag("i", 7), class_="a\"'b", title=None) == (
        '<p class="a&quot;&#x27;b">&lt;b&gt;&amp;<i>7</i></p>'
    )
    assert together("\u2028\u202e\x1b\x00") == "\\u2028\\u202e\\x1b\\x00"


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_a_log_holds_is_shown_as_text(key, value):
    run = usual_run()
    for record in run.records:
        record["labels"] = {key: value}
        record["message"] = value
        for name in ("client_ip", "reason", "acl", "error", "opened_by", "host", "relay_id", "target_host"):
            if isinstance(record.get(name), str):
                record[name] = value
    seen = Page(page(told(run)))
    assert seen.tags <= TAGS
    assert seen.comments == 0
    assert not {name for name in seen.attributes if name.startswith("on")}
    shown = escaped(value)
    assert f"label {escaped(key)}" in seen.text
    assert shown in seen.text


@pytest.mark.parametrize(
    "value",
    [
        "</script><img src=x onerror=alert(1)>",
        "<!--<script>",
        "a\u2028b",
        "\u202eevil",
        "\x1b]0;x\x07",
        "&lt;",
        "'\"",
    ],
)
def test_hostile_labels(value):
    run = usual_run()
    for record in run.records:
        record["labels"] = {"note": value}
    made = told(run, usual_run(relay_id="r2"))
    data = page(made)
    assert value.encode() not in data or not set(value) & set("<\u2028\u202e\x1b")
    seen = Page(data)
    assert seen.tags <= TAGS
    assert escaped(value) in seen.text
    shown = text_of(made)
    assert "\x1b" not in shown.replace("\x1b[", "")
    assert escaped(value)[:10] in shown


def test_the_page_needs_nothing_from_elsewhere():
    data = page(told(usual_run(), usual_run(relay_id="r2"))).decode()
    for word in ("http:", "https:", "//cdn", "src=", "@import", "url(", " style=", "<script"):
        assert word not in data, word
    ((style),) = re.findall("<style>(.*?)</style>", data, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in POLICY
    assert POLICY.startswith("default-src 'none'; ")
    assert data.index("charset") < 200
    assert data.index("Content-Security-Policy") < data.index("<style>")


def test_the_parts_of_the_page_are_linked():
    seen = Page(page(told(usual_run(), usual_run(relay_id="r2"))))
    assert len(seen.ids) == len(set(seen.ids))
    assert {link.removeprefix("#") for link in seen.links} <= set(seen.ids)


def test_integers_are_exact():
    made = told(usual_run())
    assert made["runs"][0]["totals"]["bytes_from_target"] == 9007199254741001
    assert "9,007,199,254,740,993 bytes" in Page(page(made)).text
    assert "9,007,199,254,740,993 B" in text_of(made)


def test_text_and_page_show_the_same():
    run = Writer()
    run.opened(expires_at="2026-11-26T11:00:00.000000Z", listen_ip="192.0.2.1", clock_synchronised=False)
    run.write("control.command", command="extend", arguments={"seconds": 5.0}, peer_uid=7, peer_pid=8, ok=True)
    run.write("control.command", command="extend", ok=False, problem="no more")
    run.write("relay.extended", expires_at="2026-11-26T11:30:00.000000Z")
    run.write("acl.reload_failed", "error")
    for number in range(100):
        run.close(run.admit(f"10.0.0.{number}"), "killed", error="EPIPE")
        run.refuse(f"10.1.0.{number}")
    run.close(run.admit("10.0.0.1") | {"target_ip": "192.0.2.11"})
    run.admit("10.0.0.9")
    run.write("odd.event")
    made = told(
        *(run, usual_run(relay_id="r2")),
        troubles=[{"file": "a.log", "line": 3, "problem": "is cut"}],
        troubles_count=2,
        hints=["A hint."],
    )
    for shown in (Page(page(made)).text, text_of(made)):
        words = " ".join(shown.split())
        for said in (
            *("A hint.", "is cut", "and 1 more", "and 90 more", "refused: no more", "killed", "192.0.2.1:8080"),
            *("from 192.0.2.1:8080", "EPIPE, client", "Sessions without an end", "after it had been put off"),
        ):
            assert said in words, said


def test_a_terminal_without_blocks_gets_letters():
    made = told(usual_run())
    assert "█" in text_of(made)
    assert "@" in text_of(made, encoding="ascii")


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (WHOLE, ["Sealed: of 20 records none was changed", "The signer is known: KEY="]),
        (
            WHOLE._replace(signer_known=False),
            ["The signer is not known: KEY=. Anybody could have made such a seal"],
        ),
        (
            WHOLE._replace(verdict="open", sealed=15),
            ["Sealed up to seq 15", "The rest is not sealed: 5 records at the end."],
        ),
        (WHOLE._replace(verdict="open", sealed=0), ["Nothing of this run is sealed yet."]),
        (
            WHOLE._replace(
                verdict="broken", sealed=7, fault=Fault("changed", "was changed", Place("a.log", 9), 9)
            ),
            ["The seal is broken: a.log:9 (seq 9) was changed.", "proved, up to seq 7"],
        ),
        (
            WHOLE._replace(verdict="broken", sealed=0, signer=None, fault=Fault("unsealed", "is not sealed")),
            ["There is no seal: is not sealed."],
        ),
        (
            WHOLE._replace(
                verdict="broken", sealed=0, signer_known=False, fault=Fault("signer", "names another")
            ),
            ["The seal is by none of the keys given: names another."],
        ),
    ],
)
def test_what_is_said_of_a_seal(verdict, said):
    made = told(usual_run(), verdicts={"r1": seals.told(verdict)})
    assert made["verdict"] == verdict.verdict
    for shown in (Page(page(made)).text, text_of(made)):
        words = " ".join(shown.split())
        for sentence in said:
            assert sentence in words


def test_of_several_runs_the_page_says_on_top_how_many_are_sealed():
    """One with a broken seal, or without one where a key was given, is not."""
    runs = [usual_run(relay_id=name) for name in ("r1", "r2", "r3", "r4")]
    unknown = WHOLE._replace(relay_id="r2", signer_known=False)
    broken = WHOLE._replace(relay_id="r4", verdict="broken", fault=Fault("changed", "was changed"))
    verdicts = {"r1": seals.told(WHOLE), "r2": seals.told(unknown), "r4": seals.told(broken)}
    made = told(*runs, verdicts=verdicts)
    said = "Of 4 runs 2 are sealed, 1 of them by a signer that is known."
    assert next(story.of_files(made)) == said
    for shown in (Page(page(made)).text, text_of(made)):
        assert said in shown


def test_without_a_record_text_and_page_say_so():
    made = told()
    for shown in (Page(page(made)).text, text_of(made)):
        assert "Broken: no record was found." in shown
        assert "were changed" not in shown
    assert "20 records, from 2026-11-26 12:00:00.007 UTC to " in text_of(told(usual_run()))


def test_how_values_are_shown():
    assert story.clock(None) == "not known"
    assert story.clock("2026-11-26T12:00:00.123456Z", 0) == "2026-11-26 12:00:00 UTC"
    assert [story.lasted(seconds) for seconds in (0.0001, 9.5, 75)] == ["0.000 s", "9.500 s", "1:15"]
    assert [story.moved(count) for count in (1, 1023, 2048)] == [
        "1 byte",
        "1,023 bytes",
        "2,048 bytes (2.0 KiB)",
    ]
    assert [story.briefly_moved(count) for count in (0, 1023, 2048)] == ["0 B", "1,023 B", "2,048 B (2.0 KiB)"]
    assert [story.place(*ends) for ends in (("::1", 5), ("192.0.2.1", None), (None, None))] == [
        "[::1]:5",
        "192.0.2.1",
        "?",
    ]
    assert story.shortened("x" * 200) == "x" * 59 + "…"


def test_counts_are_grouped_and_serial_numbers_are_not():
    run = Writer(full=False)
    run.opened()
    for _ in range(1200):
        run.close(run.admit("10.0.0.1"))
    run.stop()
    made = told(run)
    for shown in (Page(page(made)).text, text_of(made)):
        assert "1,200 sessions of 1 client" in shown
        for title, row in (("Clients", sections.of_run(made["runs"][0])),):
            (clients,) = (one for one in row if one.title == title)
            assert clients.rows[0][1] == 1200
    assert '<td>10.0.0.1</td><td class="n">1,200</td>' in page(made).decode().replace(' class="word"', "")
    sessions = {section.title: section for section in sections.of_run(made["runs"][0])}["The longest sessions"]
    assert sessions.rows[0][0] == sections.Serial(1)
    assert text_of(made).count("UTC)") > 0


def test_the_picture_begins_and_ends_with_the_door():
    """Otherwise what the relay recorded of itself before and afterwards would stand at its edges."""
    run = Writer()
    run.opened()
    run.close(run.admit("10.0.0.1"))
    run.stop()
    run.records[-1]["timestamp"] = "2026-11-26T13:30:00.000000Z"
    made = told(run)
    intervals = made["runs"][0]["timeline"]["intervals"]
    assert (intervals[0]["begins"], intervals[-1]["begins"]) == (
        "2026-11-26T12:00:00.000000Z",
        "2026-11-26T13:30:00.000000Z",
    )
    for shown in (Page(page(made)).text, text_of(made)):
        assert re.search(r"[Rr]efused in each 1 min: none", shown)


def test_addresses_are_not_broken():
    run = Writer()
    run.opened()
    run.refuse("192.168.100.101")
    run.stop()
    assert b'<td class="word">192.168.100.101</td>' in page(told(run))


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_on_a_narrow_terminal_no_word_is_torn(columns, monkeypatch):
    """A table that would tear addresses and times shows each row as a list of its values instead."""
    monkeypatch.setenv("COLUMNS", str(columns))
    run = Writer(full=False)
    run.opened()
    run.refuse("192.168.100.101")
    run.close(run.admit("2001:db8:1111::aaaa"))
    run.stop()
    shown = text_of(told(run))
    assert max(map(len, shown.splitlines())) <= columns
    for word in ("192.168.100.101", "2001:db8:1111::aaaa", "bytes_from_client"):
        assert word in shown
    assert re.search(r"(?m)^ address: 192\.168\.100\.101 .*refused: 1", shown) or columns != 80
    assert shown.count("counted in the log") or columns < 120
    assert all(word in shown.split() for word in ("counted", "what", "outcomes", "reasons"))
    assert "too often" not in shown or columns == 120  # what is 0 is left out of a list


def test_a_wide_terminal_shows_tables(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run = Writer()
    run.opened()
    run.close(run.admit("10.0.0.1"))
    run.stop()
    assert re.search(r"(?m)^ client +sessions +from clients +", text_of(told(run)))


def test_a_door_that_never_opened_and_one_that_is_not_known():
    never, unknown, nameless = Writer("a"), Writer("b"), Writer("c")
    never.write("config.invalid", "error")
    unknown.write("relay.draining")
    nameless.opened(opened_by=None, host=None, expires_at="2026-11-26T13:00:00.000000Z")
    nameless.refuse("10.0.0.1")
    nameless.stop("because")
    assert "Refused in each" not in text_of(told(never))
    told_of = [[*story.of_run(run)] for run in told(never, unknown, nameless)["runs"]]
    assert told_of[0][0] == "This door was never opened, because the relay could not start."
    assert told_of[1] == [
        "0 sessions of 0 clients ended: 0 bytes came from clients, 0 bytes from the target.",
        "No connection was refused.",
        "The log does not show how the relay ended.",
    ]
    assert told_of[2][0].startswith("Somebody whose name is not known opened this door at ")
    assert told_of[2][1] == "It was to close by itself at 2026-11-26 13:00:00.000 UTC."
    assert "1 connection was refused." in told_of[2]
    assert told_of[2][-1].endswith("for a reason that this program does not know.")


def test_rows_that_may_be_incomplete_say_so():
    run = Writer(full=False)
    run.opened()
    for number in range(3000):
        run.close(run.admit(f"10.0.{number // 250}.{number % 250}"))
        run.refuse(f"10.1.{number // 250}.{number % 250}")
    for number in range(300):
        run.close(run.admit("10.9.9.9"), f"of another version, {number}")
        run.refuse("10.1.0.1")
    for _ in range(3):
        run.close(run.admit("10.9.9.9"), "killed")
    run.stop()
    made = told(run)
    for shown in (Page(page(made)).text, text_of(made)):
        assert "others" in shown
    records = [section for section in sections.of_run(made["runs"][0]) if section.title == "Clients"]
    assert records[0].others is not None
    assert records[0].rows[0][0] == sections.Named("10.9.9.9", "at least")
    (reasons,) = (
        section for section in sections.of_run(made["runs"][0]) if section.title == "Why sessions ended"
    )
    assert reasons.rows[1][0] == sections.Named("the operator ended it", "at least")


def test_records_that_are_left_out_are_said():
    made = told(usual_run()) | {"records_left_out": 3, "files": [{"file": "a", "records": 1, "other_lines": 2}]}
    made |= {"troubles_count": 3}
    damaged, others, left_out = story.of_files(made)
    assert damaged == "The files are damaged in 1 place, listed at the end."
    assert others == "2 lines in the files are no records."
    assert "So 3 records of further runs are left out" in left_out
