"""Asks a time-stamping authority, by HTTP (RFC 3161, section 3.4). What it answers is not looked at here.

The whole exchange has one deadline. A thread does it, because a name server, or one byte now and then, can take
any time. The thread is left alone then: the program is about to end.
"""

import threading
from http.client import HTTPException
from queue import Empty, SimpleQueue
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from mprelay import __version__
from mprelay.audit.anchored import NoToken

PATIENCE: Final = 30.0
"""Seconds for an answer, from the look-up of the name on."""


def ask(url: str, request: bytes, limit: int) -> bytes:
    """Return what an authority answers, of so many bytes at most. Raises NoToken."""
    answers: SimpleQueue[bytes | NoToken] = SimpleQueue()
    threading.Thread(target=_exchange, args=(url, request, limit, answers), daemon=True).start()
    try:
        answer = answers.get(timeout=PATIENCE)
    except Empty:
        raise NoToken(f"has not answered within {PATIENCE:g} s") from None
    if isinstance(answer, NoToken):
        raise answer
    return answer


def _exchange(url: str, request: bytes, limit: int, answers: "SimpleQueue[bytes | NoToken]") -> None:
    try:
        answers.put(_post(url, request, limit))
    except NoToken as none:
        answers.put(none)
    except HTTPError as refusal:
        with refusal:
            to = refusal.headers.get("Location")
            where = f" and leads to {to}, which is not followed" if to else ""
            answers.put(NoToken(f"answers {refusal.code} {refusal.reason}{where}"))
    except (OSError, HTTPException, ValueError) as failure:
        reason = failure.reason if isinstance(failure, URLError) else failure
        said = reason.strerror if isinstance(reason, OSError) else None
        answers.put(NoToken(f"cannot be asked: {said or reason or type(reason).__name__}"))


def _post(url: str, request: bytes, limit: int) -> bytes:
    headers = {
        "Content-Type": "application/timestamp-query",
        "Accept": "application/timestamp-reply",
        "User-Agent": f"mprelayctl/{__version__}",
    }
    post = Request(url, request, headers)  # noqa: S310 - http or https, the caller has seen to that
    with build_opener(_NotElsewhere).open(post, timeout=PATIENCE) as response:
        answer: bytes = response.read(limit + 1)
    if len(answer) > limit:
        raise NoToken("answers more than a token can have")
    return answer


class _NotElsewhere(HTTPRedirectHandler):
    """Follows nothing: urllib would make a GET of the request."""

    def redirect_request(self, *_arguments: object) -> None:
        """Decline."""
