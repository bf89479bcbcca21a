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


def main() -> int:
    """Run both until the relay ends; return its exit code."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        target = str(server.server_address[1])
        command = [str(Path(sys.executable).with_name("mprelay")), str(PORT), "127.0.0.1", target, "127.0.0.0/8"]
        # The relay has a process group of its own. So a terminal's Ctrl-C reaches only this process, which
        # passes it on once. Otherwise the relay would get two signals for one Ctrl-C, and cut its drain short.
        relay = subprocess.Popen(
            [*command, "--bind", "127.0.0.1", "--workers", "2", "--drain-timeout", "2"], process_group=0
        )
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _frame: relay.send_signal(number))
        print(
            f"mprelay: will relay 127.0.0.1:{PORT} to a small web server; then try: curl http://127.0.0.1:{PORT}/",
            file=sys.stderr,
        )
        print(
            "mprelay: each connection leaves its records here, as JSON with `| cat`; Ctrl-C ends all",
            file=sys.stderr,
        )
        code = relay.wait()
        server.shutdown()
        return code


if __name__ == "__main__":
    sys.exit(main())
