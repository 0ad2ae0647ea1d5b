"""What a device under the harness says to somebody outside its disk, line by line.

An acknowledgement counts only when it was told after the call had returned, so each is one system
call that the tracer does not stop.
"""

import fcntl
import json
import os


class Witness:
    """The writing side: in the device's process."""

    def __init__(self, descriptor):
        self._descriptor = descriptor

    def tell(self, what, *details):
        os.writev(self._descriptor, [json.dumps([what, *details]).encode() + b"\n"])


class Memory:
    """A file in memory, outside any disk, that a device's processes write into one after the other."""

    def __init__(self):
        self.descriptor = os.memfd_create("witness", 0)
        fcntl.fcntl(self.descriptor, fcntl.F_SETFL, os.O_APPEND)
        self._read = 0

    def lines(self):
        """Return what has been told since the last call."""
        data = os.pread(self.descriptor, os.fstat(self.descriptor).st_size - self._read, self._read)
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def close(self):
        os.close(self.descriptor)
