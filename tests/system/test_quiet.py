"""The programs talk to what is configured and write where they are told to, seen from the kernel.

onnxruntime's wheels contact their vendor about 20 s after a session begins, and stay quiet while `CI`
is set: so the programs run without it here, and for longer than that.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

BIN = Path(sys.prefix) / "bin"
SERVE_S = 30
"""Longer than onnxruntime waits before it calls home."""
CALLS = (
    "connect,sendto,sendmsg,getsockname,openat,open,creat,rename,renameat,renameat2,mkdir,mkdirat,unlink,"
    "unlinkat,link,linkat,symlink,symlinkat"
)
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
HARMLESS = (
    *("/dev/null", "/dev/tty", "/dev/pts/", "/proc/self/"),
    "/dev/shm/sem.",  # noqa: S108 - joblib tries whether this system has semaphores
)
LOCAL_SERVICES = ("/var/run/nscd/", "/run/systemd/", "/run/dbus/", "/dev/log")

pytestmark = [pytest.mark.system, pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]


def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        reason = "strace is not installed: that nothing phones home was NOT checked"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return found


class Watch:
    """Programs run under strace in a home of their own, without `CI`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.traces: list[Path] = []
        self.running: list[subprocess.Popen[bytes]] = []
        for name in ("home", "tmp", "work"):
            (root / name).mkdir()
        self.environ = {
            "PATH": f"{BIN}:{os.environ['PATH']}:/usr/sbin",
            "HOME": str(root / "home"),
            "TMPDIR": str(root / "tmp"),
            "LANG": "C.UTF-8",
            # The interpreter's own cache, beside its sources, is none of our business.
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(self, *argv: str | Path) -> subprocess.Popen[bytes]:
        trace = self.root / f"trace-{len(self.traces)}"
        self.traces.append(trace)
        watched = [strace(), "-f", "-qq", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", trace]
        with (self.root / f"output-{len(self.traces)}").open("wb") as output:
            process = subprocess.Popen(
                [str(arg) for arg in (*watched, *argv)],
                cwd=self.root / "work", env=self.environ, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.running.append(process)
        return process

    def run(self, *argv: str | Path) -> None:
        process = self.start(*argv)
        assert process.wait(90) == 0, self.output()

    def end(self) -> None:
        """Ask what runs to end, newest first, and wait for it."""
        for process in reversed(self.running):
            if process.poll() is None:
                for child in psutil.Process(process.pid).children():
                    child.send_signal(signal.SIGTERM)
                process.wait(30)

    def output(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.root.glob("output-*")))

    def foreign(self, ports: set[int]) -> list[str]:
        """Return every traced call that reached for what is not ours."""
        found = []
        for trace in self.traces:
            lines = trace.read_text(errors="replace").splitlines()
            # paho wakes its thread through a pair of its own TCP sockets.
            own = {
                int(p) for line in lines for p in re.findall(r" getsockname.*htons\((\d+)", line)
            }
            found += [line for line in lines if is_foreign(line, self.root, ports | own)]
        return found


def is_foreign(line: str, root: Path, ports: set[int]) -> bool:
    """Whether a line of strace's output shows a peer or a file outside what is configured.

    Refused calls count: the walls around the runtime would hide what it tries.
    """
    call = re.match(r"\d+ +(\w+)\(", line)
    if call is None:
        return False
    if call[1] == "getsockname":
        return False
    if call[1] in ("connect", "sendto", "sendmsg"):
        return is_foreign_peer(line, root, ports)
    if call[1] in ("open", "openat") and not re.search(r"O_(WRONLY|RDWR|CREAT)", line):
        return False
    base = re.search(r"\((?:AT_FDCWD|\d+)<([^>]*)>", line)
    for text in QUOTED.findall(line):
        path = os.path.normpath(Path(base[1] if base else root / "work") / text)
        ours = tuple(f"{root / name}/" for name in ("work", "tmp"))
        if not f"{path}/".startswith((*ours, *HARMLESS)):
            return True
    return False


def is_foreign_peer(line: str, root: Path, ports: set[int]) -> bool:
    if (unix := re.search(r'sa_family=AF_UNIX, sun_path=@?"([^"]*)"', line)) is not None:
        path = os.path.normpath(root / "work" / unix[1])
        return not path.startswith((f"{root}/", *LOCAL_SERVICES))
    if "sa_family=AF_INET" not in line:
        return False  # on a connection that was judged before, or netlink
    port = re.search(r"sin6?_port=htons\((\d+)\)", line)
    address = re.search(r'(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"', line)
    is_ours = address is not None and address[1] in ("127.0.0.1", "::1")
    return not (is_ours and port is not None and int(port[1]) in ports)


@pytest.fixture
def watch(tmp_path):
    watch = Watch(tmp_path)
    yield watch
    for process in watch.running:
        for child in psutil.Process(process.pid).children() if process.poll() is None else ():
            child.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answer(url: str, body: object = None) -> object:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data, timeout=5) as reply:  # noqa: S310 - our own loopback
        return json.load(reply)


def wait_for(url: str, watch: Watch) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            answer(url)
        except (OSError, urllib.error.HTTPError):
            assert time.monotonic() < deadline, watch.output()
            time.sleep(0.2)
        else:
            return


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket().connect_ex(('127.0.0.2', 9))",
        "import socket; socket.socket(2, 2).sendto(b'x', ('127.0.0.2', 53))",
        "import pathlib; pathlib.Path('../outside').write_text('x')",
        "import os; os.makedirs(os.path.expanduser('~/../../cache-of-somebody'), exist_ok=True)",
    ],
)
def test_the_watch_sees_a_foreign_peer_and_a_foreign_file(tmp_path, code):
    (tmp_path / "fence").mkdir()
    watch = Watch(tmp_path / "fence")
    shutil.move(tmp_path / "fence" / "work", tmp_path / "work")
    (tmp_path / "fence" / "work").symlink_to(tmp_path / "work")
    watch.run(sys.executable, "-c", code)
    assert len(watch.foreign({1})) == 1, watch.foreign({1})


def test_nothing_is_contacted_but_what_is_configured(watch):
    api, serve, door = free_port(), free_port(), free_port()
    watch.run(
        "fleet", "init", ".", "--listen", f"127.0.0.1:{api}", "--devices", f"127.0.0.1:{door}"
    )
    broker = int(
        re.search(r"mqtts://127.0.0.1:(\d+)", (watch.root / "work/fleet.toml").read_text())[1]
    )
    watch.start("fleet", "up")
    wait_for(f"http://127.0.0.1:{api}/v1/health", watch)
    watch.run("fleet", "device", "add", "d", "--output", "d.toml", "--listen", f"127.0.0.1:{serve}")
    watch.start("fleet-agent", "run", "--config", "d.toml")
    train = Path(__file__).parents[2] / "examples" / "digits" / "train.py"
    watch.run(sys.executable, train)
    watch.run(
        *("fleet", "convert", "model.skops", "--name", "digits", "--version", "1", "--data"),
        *("digits.npz", "--output", "d.bundle"),
    )
    watch.run("fleet", "push", "d.bundle")
    rollout = watch.start(
        *("fleet", "rollout", "start", "digits:1", "--phases", "100%", "--soak", "0s", "--wait"),
        *("--probation-min", "1s"),
    )
    wait_for(f"http://127.0.0.1:{serve}/v2/health/ready", watch)
    body = {"inputs": [{"name": "X", "shape": [1, 64], "datatype": "FP32", "data": [1.0] * 64}]}
    serve_until = time.monotonic() + SERVE_S
    while time.monotonic() < serve_until or rollout.poll() is None:
        answer(f"http://127.0.0.1:{serve}/v2/models/digits/infer", body)
        assert time.monotonic() < serve_until + 60, watch.output()
        time.sleep(0.2)
    assert rollout.returncode == 0, watch.output()
    watch.run("fleet-agent", "doctor", "--config", "d.toml")
    watch.end()
    assert sum(path.stat().st_size for path in watch.traces) > 10_000
    assert "\n".join(watch.foreign({api, serve, door, broker})) == ""
    assert list((watch.root / "home").iterdir()) == []
