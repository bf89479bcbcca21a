"""The demonstration of `scripts/run` without arguments: a web server and a relay to it. Ctrl-C ends both."""

import http.server
import signal
import subprocess
import sys
import threading
from pathlib import Path

PORT = 8080
PAGE = b"Hello from behind the relay.\n"


class Page(http.server.BaseHTTPRequestHandler):
    """Answers every request with one page."""

    def do_GET(self) -> None:
        """Answer with the page."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_args: object) -> None:
        """Print nothing, so that only the records are seen."""


def _start(program: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start the relay, so that it gets one signal for one Ctrl-C. A second one would cut its drain short."""
    if sys.platform == "win32":  # Ctrl-C reaches every process of the console, and this one waits for the relay
        relay = subprocess.Popen([f"{program}.exe", *arguments])
        for number in (signal.SIGINT, signal.SIGBREAK):
            signal.signal(number, lambda _number, _frame: None)
        return relay
    # In a process group of its own a terminal's Ctrl-C does not reach the relay. This process passes it on.
    relay = subprocess.Popen([program, *arguments], process_group=0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: relay.send_signal(number))
    return relay


def main() -> int:
    """Run both until the relay ends; return its exit code."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        target = str(server.server_address[1])
        program = str(Path(sys.executable).with_name("mprelay"))
        positionals = (str(PORT), "127.0.0.1", target, "127.0.0.0/8")
        relay = _start(program, *positionals, "--bind", "127.0.0.1", "--workers", "2", "--drain-timeout", "2")
        print(
            f"mprelay: will relay 127.0.0.1:{PORT} to a small web server; then try: curl http://127.0.0.1:{PORT}/",
            file=sys.stderr,
        )
        print(
            "mprelay: each connection leaves its records here, as JSON if this is no terminal; Ctrl-C ends all",
            file=sys.stderr,
        )
        code = relay.wait()
        server.shutdown()
        return code


if __name__ == "__main__":
    sys.exit(main())
