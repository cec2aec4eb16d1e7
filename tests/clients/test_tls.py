"""HTTPS and Flight with TLS on one port, with a certificate that is renewed while the server runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import trustme
from attrs import frozen
from pyarrow import flight

pytestmark = pytest.mark.slow

COMMAND = str(Path(sys.executable).parent / "walmill")
DEADLINE = 60.0
leaves_files = pytest.mark.may_leave("file", reason="gRPC keeps its poll sets as long as the process lives")


@frozen
class Served:
    port: int
    home: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return (self.home / "data" / "operator-token").read_text().strip()

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.home / "ca.pem")

    def client(self) -> httpx2.Client:
        return httpx2.Client(verify=self.trusting(), trust_env=False, headers={"authorization": f"Bearer {self.token}"})

    def serial(self) -> str:
        """The number of the certificate that a new connection is shown."""
        with (
            socket.create_connection(("127.0.0.1", self.port), DEADLINE) as plain,
            self.trusting().wrap_socket(plain, server_hostname="127.0.0.1") as link,
        ):
            found = link.getpeercert()
            assert found is not None
            return str(found["serialNumber"])


def _issue(ca: trustme.CA, home: Path) -> None:
    made = ca.issue_cert("127.0.0.1", "localhost")
    for name, pieces in (("cert.pem", made.cert_chain_pems), ("key.pem", [made.private_key_pem])):
        (home / f"{name}.new").write_bytes(b"".join(one.bytes() for one in pieces))
        (home / f"{name}.new").replace(home / name)


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("WALMILL_")}


def _command(served: Served, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments, "--host", served.url], cwd=served.home, env=_environ() | {"WALMILL_AUTH_TOKEN": served.token},
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def served(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("tls")
    ca.cert_pem.write_to_path(str(home / "ca.pem"))
    _issue(ca, home)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        served = Served(free.getsockname()[1], home)
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [COMMAND, "serve", "--data-dir", "data", "--http-bind", f"127.0.0.1:{served.port}", "--tls-cert", "cert.pem",
             "--tls-key", "key.pem"], cwd=home, env=_environ(), stdout=log, stderr=log,
        )  # fmt: skip
    try:
        until = time.monotonic() + DEADLINE
        while True:
            assert process.poll() is None, (home / "log").read_text()
            assert time.monotonic() < until, (home / "log").read_text()
            with (
                contextlib.suppress(httpx2.TransportError),
                httpx2.Client(verify=served.trusting(), trust_env=False) as client,
            ):
                if client.get(f"{served.url}/ready").status_code == 200:
                    break
            time.sleep(0.02)
        yield served
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0, (home / "log").read_text()
    finally:
        process.kill()
        process.wait()


def test_https_and_the_command_line(served: Served) -> None:
    with served.client() as client:
        answer = client.post(f"{served.url}/api/v3/write_lp?db=d", content="cpu,host=a v=1 1")
        assert answer.status_code == 204
    assert '"url": "https://127.0.0.1:' in (served.home / "log").read_text()
    found = _command(served, "query", "-d", "d", "--tls-ca", "ca.pem", "--format", "csv", "SELECT host, v FROM cpu")
    assert (found.returncode, found.stdout) == (0, "host,v\na,1.0\n")
    found = _command(served, "query", "-d", "d", "SELECT 1")
    assert found.returncode != 0
    assert "is not trusted" in found.stderr
    assert "--tls-ca" in found.stderr
    (served.home / "no.pem").write_text("nonsense")
    assert "names a PEM file" in _command(served, "show", "databases", "--tls-ca", "no.pem").stderr


@leaves_files
def test_flight(served: Served) -> None:
    ticket = flight.Ticket(b'{"database": "_internal", "sql_query": "SELECT 1 AS one"}')
    options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {served.token}".encode())])
    root = (served.home / "ca.pem").read_bytes()
    with flight.connect(f"grpc+tls://127.0.0.1:{served.port}", tls_root_certs=root) as client:
        assert client.do_get(ticket, options).read_all().to_pylist() == [{"one": 1}]


def test_who_knows_both_speaks_http1(served: Served) -> None:
    for offered, chosen in ((["h2", "http/1.1"], "http/1.1"), (["h2"], "h2"), ([], None)):
        context = served.trusting()
        if offered:
            context.set_alpn_protocols(offered)
        with (
            socket.create_connection(("127.0.0.1", served.port), DEADLINE) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as link,
        ):
            assert link.selected_alpn_protocol() == chosen
            assert link.version() == "TLSv1.3"


def test_a_renewed_certificate_needs_no_restart(served: Served, ca: trustme.CA) -> None:
    first = served.serial()
    assert served.serial() == first
    with served.client() as client:
        assert client.get(f"{served.url}/ping").status_code == 200
        _issue(ca, served.home)
        second = served.serial()
        assert second != first
        good = (served.home / "key.pem").read_bytes()
        (served.home / "key.pem").write_bytes(b"half of a k")
        assert served.serial() == second
        assert "the last certificate stays in use" in (served.home / "log").read_text()
        (served.home / "key.pem").unlink()
        assert served.serial() == second
        (served.home / "key.pem").write_bytes(good)
        assert served.serial() == second
        assert client.get(f"{served.url}/ping").status_code == 200  # the connection from before


def test_what_speaks_no_tls_hurts_nobody(served: Served) -> None:
    for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"PRI * HTTP/2.0\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", served.port), DEADLINE) as link:
            link.sendall(said)
            link.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                link.recv(100)
    served.serial()
    assert "Traceback" not in (served.home / "log").read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tls-key", "key.pem"], "without a certificate"),
        (["--tls-cert", "missing.pem"], "missing.pem"),
        (["--tls-cert", "ca.pem"], "cannot be used"),
        (["--tls-cert", "cert.pem", "--tls-key", "other.pem"], "cannot be used"),
        (["--tls-cert", "cert.pem", "--tls-key", "locked.pem"], "password"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, ca: trustme.CA, flags: list[str], said: str) -> None:
    _issue(ca, tmp_path)
    (tmp_path / "other.pem").write_bytes(ca.issue_cert("x").private_key_pem.bytes())
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    (tmp_path / "locked.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    found = subprocess.run(
        [COMMAND, "serve", "--data-dir", "data", "--http-bind", "127.0.0.1:0", *flags], cwd=tmp_path, env=_environ(),
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert found.returncode != 0
    assert said in found.stderr, found.stderr
    assert "Traceback" not in found.stderr
