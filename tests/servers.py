"""Real servers on this machine, for tests: an S3-compatible store, a PostgreSQL."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs


@dataclass(frozen=True)
class Bucket:
    """A bucket of the store."""

    name: str
    port: int
    filesystem: fs.S3FileSystem

    def uri(self, key: str = "", *, port: int = 0) -> str:
        """Of a key, a folder or a glob."""
        return f"s3://{self.name}/{key}?endpoint_override=127.0.0.1:{port or self.port}&scheme=http"

    def put(self, key: str, content: bytes = b"a\n1\n") -> None:
        """Write an object."""
        with self.filesystem.open_output_stream(f"{self.name}/{key}") as stream:
            stream.write(content)

    def put_raw(self, key: str, content: bytes = b"a\n1\n") -> None:
        """Write an object of a name that a careful client would not send."""
        self.ask("PUT", f"/{self.name}/{key}", content)

    def ask(self, method: str, path: str, content: bytes = b"") -> None:
        """Send a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request(method, path, content, {"Content-Type": "text/plain"})
        assert connection.getresponse().status == 200
        connection.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@contextmanager
def s3_server() -> Iterator[int]:
    """A moto server that answers; its port."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(port)
            yield port
        finally:
            server.kill()


def wait_for(port: int, *, timeout_s: float = 60) -> None:
    """Until somebody listens."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens on port {port}")


HBA = """
local all guarded scram-sha-256
local all all trust
"""


@dataclass(frozen=True)
class PostgreSQL:
    """A running server."""

    bin: Path
    folder: Path

    @property
    def uri(self) -> str:
        """Of its database, for who needs no password."""
        return self.uri_of("postgres")

    def uri_of(self, user: str) -> str:
        """Of its database, for a user."""
        return f"postgresql://{user}@/postgres?host={self.folder}"

    def run(self, program: str, *arguments: str) -> str:
        """Run one of its programs, as a user that it allows."""
        user: dict[str, Any] = {}
        if os.getuid() == 0:  # whom no PostgreSQL serves
            user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        command = [str(self.bin / program), *arguments]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", timeout=120, **user)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def sql(self, script: str) -> str:
        """Run statements; the answer's cells."""
        return self.run("psql", "-h", str(self.folder), "-U", "postgres", "-tAqc", script, "postgres")


def postgresql_programs() -> Path | None:
    """The folder of initdb, if a server is installed: the newest of Debian's, or the one on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def postgresql(programs: Path) -> Iterator[PostgreSQL]:
    """A server of its own, on a socket."""
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        server, data = PostgreSQL(programs, Path(folder)), f"{folder}/data"
        server.run("initdb", "-D", data, "-U", "postgres", "--no-sync", "--locale=C.UTF-8", "--encoding=UTF8")
        Path(data, "pg_hba.conf").write_text(HBA)
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        server.run("pg_ctl", "-D", data, "-l", f"{folder}/log", "-o", options, "-w", "start")
        try:
            yield server
        finally:
            server.run("pg_ctl", "-D", data, "-m", "immediate", "stop")
