"""A device that nobody prepared: Debian 12 with a true systemd, booted in a container.

It and the fleet that commands it share one network namespace with nothing but loopback in it, so
that every port is free there, whatever else this machine does.
"""

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
BIN = Path(sys.prefix) / "bin"
BOOT_S = 60
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LANDLOCK = "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self"
"""The container's own filter would hide them; a device has them."""
NETWORK = """
import fcntl, socket, struct, sys
SIOCSIFFLAGS, UP_AND_RUNNING = 0x8914, 0x41
with socket.socket() as probe:
    fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sh", b"lo", UP_AND_RUNNING))
print("up", flush=True)
sys.stdin.read()  # as long as the test lives
"""


def until(condition, what, timeout_s=60):
    """Return what `condition` returns, once that is something; a failing one may yet succeed."""
    deadline = time.monotonic() + timeout_s
    last = None
    while time.monotonic() < deadline:
        try:
            if result := condition():
                return result
        except (OSError, AssertionError, http.client.HTTPException) as exc:
            last = exc
        time.sleep(0.1)
    raise AssertionError(f"not within {timeout_s} s: {what}; last: {last!r}")


class Network:
    """A network namespace with loopback alone."""

    def __init__(self):
        self._holder = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-c", NETWORK],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout.readline() == "up\n"
        self.path = f"/proc/{self._holder.pid}/ns/net"
        self.inside = ["nsenter", f"--net={self.path}"]

    def close(self):
        self._holder.communicate()

    def connect(self, address):
        """Return a socket of this namespace that is connected; the caller stays where it is."""
        with contextlib.ExitStack() as stack:
            home = stack.enter_context(open("/proc/self/ns/net"))  # noqa: PTH123 - a descriptor
            there = stack.enter_context(open(self.path))  # noqa: PTH123
            _setns(there.fileno())
            try:
                return socket.create_connection(address, timeout=120)
            finally:
                _setns(home.fileno())


def _setns(descriptor):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0x40000000) != 0:  # CLONE_NEWNET, of this thread alone
        raise OSError(ctypes.get_errno(), "setns")


class Fleet:
    """A controller and its broker, as `fleet up` runs them, and the commands of its operator."""

    def __init__(self, root, network):
        self.root = root
        self._network = network
        self._log = root / "up.log"
        self.fleet("init", root / "fleet")
        self.home = root / "fleet"
        self._up = None

    def fleet(self, *arguments, code=0):
        done = subprocess.run(
            [*self._network.inside, BIN / "fleet", *map(str, arguments)],
            cwd=getattr(self, "home", self.root), capture_output=True, text=True, timeout=280,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def up(self):
        with self._log.open("ab") as log:
            self._up = subprocess.Popen(
                [*self._network.inside, BIN / "fleet", "up"],
                cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        until(self._is_up, "the controller answers")

    def _is_up(self):
        assert self._up.poll() is None, self._log.read_text()
        return self.fleet("devices", "--json")

    def down(self):
        if self._up is not None:
            self._up.terminate()
            self._up.wait(30)
            self._up = None

    def device(self, name):
        return json.loads(self.fleet("device", "show", name, "--json"))

    def start(self, *arguments):
        """Start a command and return at once."""
        return subprocess.Popen(
            [*self._network.inside, BIN / "fleet", *map(str, arguments)],
            cwd=self.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


class Device:
    """One machine: its tree, and its systemd while it is booted."""

    def __init__(self, tree, root, network, *, binds=()):
        self.root = root
        self._network = network
        self._log = root.with_name(f"{root.name}.console")
        self._binds = [f"--bind={path}:{inside}" for path, inside in binds]
        self._container = None
        self._leader = None
        subprocess.run(["cp", "-a", "--reflink=auto", tree, root], check=True)

    def _nspawn(self, *options):
        return [
            *self._network.inside, "systemd-nspawn", "--quiet", f"--directory={self.root}",
            "--register=no", "--keep-unit", "--link-journal=no", "--console=pipe",
            "--resolv-conf=off", LANDLOCK, *self._binds, *options,
        ]  # fmt: skip

    def run_unbooted(self, *argv):
        """Run a command in the tree while no systemd runs there, as an image is built."""
        done = subprocess.run(
            self._nspawn(*map(str, argv)), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def boot(self):
        with self._log.open("ab") as log:
            self._container = subprocess.Popen(
                # A test that is killed takes its device with it: all of a process namespace ends with
                # its first process, where a container alone would outlive its systemd-nspawn.
                ["setpriv", "--pdeathsig=KILL", "unshare", "--pid", "--kill-child",
                 *self._nspawn("--boot")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._leader = until(self._find_leader, "the device's first process", BOOT_S)
        until(self._is_booted, "the device is booted", BOOT_S)

    def _find_leader(self):
        assert self._container.poll() is None, self._log.read_text()
        below = psutil.Process(self._container.pid).children(recursive=True)
        return next((process.pid for process in below if process.name() == "systemd"), None)

    def _is_booted(self):
        state = self.run("systemctl", "is-system-running", code=None).stdout.strip()
        assert state in {"running", "degraded"}, state
        return state

    def power_off(self):
        if self._container is None:
            return
        self.run("systemctl", "poweroff", code=None)
        try:
            self._container.wait(30)
        except subprocess.TimeoutExpired:
            self._container.kill()
            self._container.wait()
        self._container = None

    def run(self, *argv, code=0, prefix=()):
        """Run a command on the device; `code` None takes any end."""
        done = subprocess.run(
            ["nsenter", f"--target={self._leader}", "--all", "env", "-i", f"PATH={PATH}",
             "LC_ALL=C.UTF-8", *prefix, *map(str, argv)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        if code is not None:
            assert done.returncode == code, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def install(self, house, *options, code=0):
        """Run a wheelhouse's `install.sh`."""
        return self.run(f"/srv/{house.name}/install.sh", *options, code=code)

    def bring(self, path):
        """Copy a file or folder to /srv."""
        target = self.root / "srv" / path.name
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copy(path, target)
        return target

    def shown(self, prop, unit="fleet-agent.service"):
        return self.run("systemctl", "show", "--value", f"--property={prop}", unit).stdout.strip()

    def process(self, *words):
        """Return the device's process, as this machine knows it, with these words in its command."""
        found = [
            process
            for process in psutil.Process(self._leader).children(recursive=True)
            if set(words) <= set(process.cmdline())
        ]
        assert found, f"no process {words}"
        return found[-1]

    @property
    def supervisor(self):
        return self.process("/opt/modelfleet/bin/fleet-agent", "run")

    @property
    def runtime(self):
        return self.process("agent.runtime")

    @property
    def files(self):
        """Return the device's file system as it sees it, what is mounted there included."""
        return Path(f"/proc/{self._leader}/root")

    def ask(self, path, body=None, *, unix=None):
        """Ask the inference server over TCP, or over a unix socket; return status and body."""
        client = http.client.HTTPConnection("127.0.0.1", 8600, timeout=120)
        if unix is None:
            client.sock = self._network.connect(("127.0.0.1", 8600))
        else:
            client.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.sock.settimeout(30)
            client.sock.connect(str(self.files / unix))
        with contextlib.closing(client):
            client.request("POST" if body else "GET", path, json.dumps(body) if body else None)
            response = client.getresponse()
            text = response.read().decode()
        return response.status, json.loads(text) if text else {}
