"""Tokens, given by openssl ts; and a server that answers, or does not."""

import socket
import sys
import threading
from contextlib import contextmanager, suppress

import pytest

if sys.platform == "win32":
    pytest.skip("not on Windows: openssl, and a library that Wine 8 cannot load", allow_module_level=True)

from support import tsa as authorities
from support.tsa import NAME, Authority, accepted, serving

from mprelay.audit import tokens, tsa
from mprelay.audit.anchored import NoToken

TEXT = b"a note\n"


@pytest.fixture(scope="module")
def authority(tool, tmp_path_factory):
    tool("openssl")
    return Authority(tmp_path_factory.mktemp("tsa") / "ours")


def trusted(authority):
    return tokens.certificates(authority.root.read_bytes())


def test_an_answer_to_our_request(authority, tmp_path):
    """Openssl accepts it too."""
    request = tokens.request_for(TEXT)
    answer = authority.reply(request.as_bytes())
    tokens.accept(answer, request)
    assert tokens.judge(answer, TEXT, trusted(authority)).tsa == NAME
    (tmp_path / "token").write_bytes(answer)
    (tmp_path / "text").write_bytes(TEXT)
    assert accepted(tmp_path / "token", tmp_path / "text", authority.root)


def test_each_request_has_another_nonce():
    assert tokens.request_for(TEXT).nonce != tokens.request_for(TEXT).nonce
    assert tokens.request_for(TEXT).cert_req


def refusal(answer, text=TEXT):
    """Why an answer is not the one to a request for a text."""
    with pytest.raises(NoToken) as none:
        tokens.accept(answer, tokens.request_for(text))
    return str(none.value)


def test_answers_to_other_requests(authority):
    assert "another text" in refusal(authority.reply(tokens.request_for(b"other\n").as_bytes()))
    assert "nonce" in refusal(authority.reply(tokens.request_for(TEXT).as_bytes()))
    assert "nonce" in refusal(authority.token(TEXT, "-no_nonce", "-cert"))


def test_an_answer_without_the_certificate(authority):
    request = tokens.request_for(TEXT)
    # certReq is the last member: TRUE becomes FALSE, which openssl takes although DER would leave it out
    query = request.as_bytes()
    assert query.endswith(b"\x01\x01\xff")
    with pytest.raises(NoToken, match="without its certificate"):
        tokens.accept(authority.reply(query[:-1] + b"\0"), request)


@pytest.mark.parametrize(
    "garbage", [b"", b"<html>sorry</html>", b"\x30\x80", b"\x30\x03\x02\x01\x00", bytes(999)]
)
def test_no_answer_at_all(garbage):
    assert refusal(garbage).startswith("has sent no token that can be read: ")


def test_an_answer_without_a_token():
    assert "has sent no token" in refusal(bytes.fromhex("3005 3003 020100"))
    assert "has sent no token" in refusal(bytes.fromhex("3005 3003 020109"))


def test_a_refusal_is_passed_on(authority):
    """By its text, or else by its kind."""
    assert (
        refusal(authority.token(TEXT, "-sha1"))
        == "has not granted it: Message digest algorithm is not supported."
    )
    assert refusal(bytes.fromhex("3005 3003 020102")) == "has not granted it: rejection"
    assert refusal(bytes.fromhex("3005 3003 020103")) == "has not granted it: waiting"


def fault(token, text, roots):
    """What is wrong with a token."""
    with pytest.raises(NoToken) as none:
        tokens.judge(token, text, roots)
    assert str(none.value).startswith("is not good: ")
    return str(none.value)


def test_a_token_of_another_text(authority):
    assert "Mismatch" in fault(authority.token(TEXT), b"other\n", trusted(authority))


def test_a_token_of_another_root(authority, tmp_path):
    """It has the same names."""
    other = Authority(tmp_path / "other")
    assert "verifying certificates" in fault(other.token(TEXT), TEXT, trusted(authority))
    assert tokens.judge(other.token(TEXT), TEXT, trusted(authority) + trusted(other)).tsa == NAME


@pytest.mark.parametrize("valid", [(-3, -1), (1, 3)], ids=["expired before", "not valid yet"])
def test_a_certificate_that_was_not_valid_when_the_token_was_made(tmp_path, valid):
    authority = Authority(tmp_path / "tsa", valid=valid)
    assert "verifying certificates" in fault(authority.token(TEXT), TEXT, trusted(authority))


def test_a_certificate_that_has_expired_since(tmp_path):
    """Openssl must be told the time for that."""
    roots = tokens.certificates(authorities.EXPIRED_ROOT)
    told = tokens.judge(authorities.EXPIRED_TOKEN, authorities.EXPIRED_TEXT, roots)
    assert told == (authorities.EXPIRED_TIME, NAME)
    for name in ("ROOT", "TOKEN", "TEXT"):
        (tmp_path / name).write_bytes(getattr(authorities, f"EXPIRED_{name}"))
    files = tmp_path / "TOKEN", tmp_path / "TEXT", tmp_path / "ROOT"
    assert not accepted(*files)
    assert accepted(*files, "-attime", authorities.EXPIRED_SECONDS)


def test_a_token_that_was_changed(authority):
    """Its time, that is."""
    token = authority.token(TEXT)
    year = token.index(b"\x18\x0f20") + 2
    assert "verifying certificates" in fault(token[:year] + b"1999" + token[year + 4 :], TEXT, trusted(authority))


def test_certificates_that_are_none(authority):
    assert len(tokens.certificates(authority.root.read_bytes() * 2)) == 2
    for text in (b"", b"x", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ValueError, match="holds no certificates"):
            tokens.certificates(text)


def test_what_an_authority_is_sent():
    with serving(lambda _heard: b"answer") as (url, heard):
        assert tsa.ask(url, b"request", 99) == b"answer"
    (asked,) = heard
    assert (asked.path, asked.body) == ("/tsr", b"request")
    assert asked.headers["Content-Type"] == "application/timestamp-query"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, {}, b"no"), "answers 404 Not Found"),
        ((302, {"Location": "/other"}, b""), "answers 302 Found and leads to /other, which is not followed"),
        ((307, {"Location": "ftp://x"}, b""), "answers 307 Temporary Redirect and leads to ftp://x, "),
        (bytes(100), "answers more than a token can have"),
        ((200, {}, bytes(10_000_000)), "answers more than a token can have"),
    ],
)
def test_answers_that_are_none(answer, said):
    """They are asked for once."""
    with serving(lambda _heard: answer) as (url, heard):
        with pytest.raises(NoToken) as none:
            tsa.ask(url, b"request", 99)
        assert str(none.value).startswith(said)
        assert len(heard) == 1


def test_an_authority_that_is_not_there():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(NoToken, match="cannot be asked: Connection refused"):
            tsa.ask(f"http://127.0.0.1:{closed.getsockname()[1]}/", b"request", 99)


@contextmanager
def speaking(first, then):
    """Say something to who connects, and then more, again and again. Yields the URL."""
    over = threading.Event()

    def speak():
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.sendall(first)
            while not over.wait(0.05):
                connection.sendall(then)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=speak)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        finally:
            over.set()
            thread.join()


def test_an_authority_that_speaks_something_else():
    with (
        speaking(b"SSH-2.0-OpenSSH_9.2\r\n", b"") as url,
        pytest.raises(NoToken, match=r"cannot be asked: SSH-2\.0"),
    ):
        tsa.ask(url, b"request", 99)


def test_an_authority_that_hangs(monkeypatch):
    monkeypatch.setattr(tsa, "PATIENCE", 0.3)
    with serving(lambda _heard: None) as (url, _), pytest.raises(NoToken, match=r"0.3 s|timed out"):
        tsa.ask(url, b"request", 99)


def test_an_authority_that_says_a_byte_now_and_then(monkeypatch):
    """To the socket that is never a timeout."""
    monkeypatch.setattr(tsa, "PATIENCE", 0.5)
    with (
        speaking(b"HTTP/1.1 200 OK\r\nX: ", b"x") as url,
        pytest.raises(NoToken, match=r"has not answered within 0\.5 s"),
    ):
        tsa.ask(url, b"request", 99)
