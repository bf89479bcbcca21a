"""Real proxies on both sides: HAProxy and nginx, with the PROXY protocol from the client to the server.

client ──▶ proxy ── header ──▶ relay ── header ──▶ server, which answers with the address that it was told
"""

import contextlib
import os
import pwd
import socket
import subprocess
from pathlib import Path

import pytest
from support.peers import free_port, port_of
from support.relay import Relay
from support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.posix("programs of another system beside Wine")

HAPROXY = """
global
    maxconn 100
defaults
    timeout connect 5s
    timeout client 30s
    timeout server 30s
{sections}
"""
HAPROXY_FRONT = """
listen front
    mode tcp
    bind 127.0.0.1:{port}
    bind [::1]:{port}
    server relay 127.0.0.1:{to} {option}
"""
HAPROXY_BACK = """
frontend back
    mode http
    bind 127.0.0.1:{port} accept-proxy
    http-request return status 200 content-type text/plain lf-string "%[src] %[src_port]\\n"
"""

NGINX = """
load_module {stream};
daemon off; worker_processes 1; error_log stderr error; pid {home}/nginx.pid; {user}
events {{ worker_connections 100; }}
{sections}
"""
NGINX_FRONT = """
stream {{ server {{
    listen 127.0.0.1:{port}; listen [::1]:{port}; proxy_pass 127.0.0.1:{to}; proxy_protocol on;
}} }}
"""
NGINX_BACK = """
http {{
    access_log off;
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
    server {{
        listen 127.0.0.1:{port} proxy_protocol; default_type text/plain;
        location / {{ return 200 "$proxy_protocol_addr $proxy_protocol_port\\n"; }}
    }}
}}
"""
STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@contextlib.contextmanager
def running(command, port):
    """Run a server in the foreground until the end of the test."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def answers():
        assert process.poll() is None, f"{command[0]} has ended"
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return True
        return False

    try:
        eventually(answers, "it listens")
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture
def haproxy(tool, tmp_path):
    """Run HAProxy with a section of its configuration."""

    def run(section, **values):
        port = free_port()
        file = tmp_path / f"haproxy-{port}.cfg"
        file.write_text(HAPROXY.format(sections=section.format(port=port, **values)))
        return running([tool("haproxy"), "-db", "-q", "-f", str(file)], port)

    return run


@pytest.fixture
def nginx(tool, tmp_path):
    """Run nginx with a section of its configuration."""
    program = tool("nginx")
    if not STREAM.exists():
        assert not os.environ.get("CI"), f"{STREAM} is missing in CI: .ci/run installs it"
        pytest.skip("nginx has no stream module")
    user = f"user {pwd.getpwuid(os.getuid()).pw_name};" if os.geteuid() == 0 else ""

    def run(section, **values):
        port = free_port()
        home = tmp_path / f"nginx-{port}"
        home.mkdir()
        file = home / "nginx.conf"
        sections = section.format(port=port, home=home, **values)
        file.write_text(NGINX.format(stream=STREAM, home=home, user=user, sections=sections))
        return running([program, "-p", str(home), "-e", "stderr", "-c", str(file)], port)

    return run


def told(client):
    """Ask the server who the client is."""
    client.sendall(b"GET / HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")
    answer = b"".join(iter(lambda: client.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), answer
    ip, port = body.split()
    return ip.decode(), int(port)


@pytest.mark.parametrize("back", ["haproxy", "nginx"])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("front", ["send-proxy", "send-proxy-v2", "nginx"])
def test_the_server_hears_who_the_client_is(haproxy, nginx, front, version, back):
    """Through both proxies, from IPv4 and IPv6, and so do the records."""
    with contextlib.ExitStack() as stack:
        server = haproxy(HAPROXY_BACK) if back == "haproxy" else nginx(NGINX_BACK)
        target = ("127.0.0.1", stack.enter_context(server))
        options = ("--accept-proxy", "127.0.0.1/32", "--proxy-protocol", version)
        relay = stack.enter_context(Relay(target, *options, acl="127.0.0.1/32,::1/128"))
        proxy = (
            nginx(NGINX_FRONT, to=relay.port)
            if front == "nginx"
            else haproxy(HAPROXY_FRONT, to=relay.port, option=front)
        )
        port = stack.enter_context(proxy)
        for ip in ("127.0.0.1", "::1"):
            with socket.create_connection((ip, port), PATIENCE) as client:
                own_port = port_of(client)
                assert told(client) == (ip, own_port)
            closed = relay.wait("session.closed", client_ip=ip, client_port=own_port)
            assert closed["proxy_ip"] == "127.0.0.1"
