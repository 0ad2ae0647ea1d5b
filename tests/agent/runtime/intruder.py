"""Tries from inside a confined process what each protection claims to deny; prints what came of it.

`python intruder.py WALL FOLDER` puts up one wall, or none, or all of them, then tries everything, and
prints JSON: attempt to the name of its error, or `allowed`.
"""

import ctypes
import errno
import json
import mmap
import os
import platform
import resource
import socket
import sys
import threading
from pathlib import Path

from agent.runtime import confine, seccomp

libc = ctypes.CDLL(None, use_errno=True)
BEYOND_BYTES = 300 * 2**20
ALLOWANCE_BYTES = 200 * 2**20


def put_up(wall, folder):
    """Put up one wall, or all; return the names of what is said to be active."""
    readable = [folder / "models"]
    match wall:
        case "none":
            return ()
        case "landlock":
            return ("landlock",) if confine._apply_landlock(readable) else ()
        case "seccomp":
            return ("seccomp",) if seccomp.apply_filter(confine._libc) else ()
        case "memory_limit":
            return ("memory_limit",) if confine.limit_memory(ALLOWANCE_BYTES) else ()
        case _:
            return confine.confine(readable)


def call(number, *arguments):
    """Make a system call by its number; arguments may be -1, bytes or numbers."""
    # As words: the upper half of a sixth one, which goes over the stack, would be what lies there.
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    if libc.syscall(ctypes.c_long(number), *words) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def by_name(name, *arguments):
    column = seccomp._ARCHES[platform.machine()].column
    call(seccomp._DENIED[name][column], *arguments)


def forbid_inheritance():
    """Make a page that is written and then executed."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    if libc.mprotect(ctypes.c_void_p(address), 4096, mmap.PROT_READ | mmap.PROT_EXEC):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def fork():
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def change_mode(path):
    with path.open("rb") as file:
        os.fchmod(file.fileno(), os.fstat(file.fileno()).st_mode & 0o7777)


def give_away(path):
    with path.open("rb") as file:
        os.fchown(file.fileno(), -1, -1)


def take_descriptors():
    taken = []
    try:
        for _ in range(confine.MAX_DESCRIPTORS + 1):
            taken.append(os.dup(0))
    finally:
        for descriptor in taken:
            os.close(descriptor)


def attempts(folder, tcp, unix, log):
    """Return what is tried, by name."""
    supervisor, arch = os.getppid(), seccomp._ARCHES[platform.machine()]
    new, model = folder / "models" / "new", folder / "models" / "model"
    return {
        "read a foreign file": lambda: (folder / "secret").read_text(),
        "list a foreign directory": lambda: os.listdir(folder),
        "read the machine's settings": lambda: Path("/etc/passwd").read_text(),
        "read the supervisor's memory": lambda: Path(f"/proc/{supervisor}/mem").open("rb"),
        "read the supervisor's environment": lambda: Path(
            f"/proc/{supervisor}/environ"
        ).read_bytes(),
        "make a file": lambda: new.write_text("x"),
        "write a model": lambda: model.open("r+b").close(),
        "append to a model": lambda: model.open("ab").close(),
        "write beside the models": lambda: (folder / "secret").open("r+b").close(),
        "cut a model": lambda: os.truncate(model, 1),
        "change who may read a model": lambda: change_mode(model),
        "give a model away": lambda: give_away(model),
        "move a model": lambda: os.rename(model, new),
        "delete a model": lambda: os.unlink(folder / "models" / "spare"),
        "make a directory": lambda: (folder / "models" / "dir").mkdir(),
        "make a link": lambda: os.symlink("/", folder / "models" / "link"),
        "open a socket": lambda: socket.socket().close(),
        "connect a socket": lambda: tcp.connect(("127.0.0.1", 9)),
        "bind a socket": lambda: unix.bind(str(folder / "models" / "sock")),
        "fork": fork,
        "execute": lambda: os.execv("/nowhere", ["x"]),
        "signal the supervisor": lambda: os.kill(supervisor, 0),
        "signal a thread of the supervisor": lambda: call(arch.tgkill, supervisor, supervisor, 0),
        "queue a signal to the supervisor": lambda: by_name("rt_sigqueueinfo", supervisor, 0, -1),
        # To what they are: without a wall both are done, to the process of the tests.
        "limit the supervisor": lambda: resource.prlimit(
            supervisor, resource.RLIMIT_CORE, resource.prlimit(supervisor, resource.RLIMIT_CORE)
        ),
        "slow the supervisor": lambda: os.setpriority(
            os.PRIO_PROCESS, supervisor, os.getpriority(os.PRIO_PROCESS, supervisor)
        ),
        "read by process_vm_readv": lambda: by_name("process_vm_readv", supervisor, 0, 0, 0, 0, 0),
        "outlive the supervisor": lambda: call(arch.prctl, 1, 0, 0, 0, 0),
        "type into the terminal": lambda: call(arch.ioctl, 0, 0x5412, b"x"),
        "set up io_uring": lambda: by_name("io_uring_setup", 1, -1),
        "new namespaces": lambda: by_name("unshare", 0),
        "map written and executable": lambda: mmap.mmap(
            -1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        ),
        "execute what was written": forbid_inheritance,
        "write a large file": lambda: os.pwrite(log, b"x", confine.MAX_FILE_BYTES),
        "take all descriptors": take_descriptors,
        "take 300 MiB": lambda: bytearray(BEYOND_BYTES),
    }


def outcome(attempt):
    try:
        attempt()
    except OSError as exc:
        return errno.errorcode.get(exc.errno, str(exc.errno))
    except MemoryError:
        return "MemoryError"
    return "allowed"


def denied_by_filter():
    """Try each call of the filter's list with senseless arguments."""
    column = seccomp._ARCHES[platform.machine()].column
    numbers = {name: pair[column] for name, pair in seccomp._DENIED.items()}
    return {
        name: outcome(lambda number=number: call(number, -1, -1, -1, -1, -1, -1))
        for name, number in numbers.items()
        if number is not None
    }


def main():
    wall, folder = sys.argv[1], Path(sys.argv[2])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    tcp, unix = socket.socket(), socket.socket(socket.AF_UNIX)
    active = put_up(wall, folder)
    said = {"active": list(active), "model": (folder / "models" / "model").read_text()}
    said["tried"] = {
        name: outcome(tried) for name, tried in attempts(folder, tcp, unix, log).items()
    }
    said["filter"] = denied_by_filter() if "seccomp" in active else {}
    said["status"] = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if "\t" in line
    )  # fmt: skip
    said["core"] = resource.getrlimit(resource.RLIMIT_CORE)
    thread = threading.Thread(target=lambda: said.update(thread=True))
    thread.start()
    thread.join()
    sys.stdout.write(json.dumps(said))
    sys.stdout.flush()
    os.abort()  # must end it by SIGABRT, filter or not


if __name__ == "__main__":
    main()
