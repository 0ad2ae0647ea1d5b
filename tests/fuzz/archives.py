"""Bundles as archives, to be changed and put together again."""

from __future__ import annotations

import io
import tarfile

BLOCK = tarfile.BLOCKSIZE


def tar(opened):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in opened.files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def with_checksums(data):
    """Give every header of an archive the checksum that belongs to it."""
    whole, place = bytearray(data), 0
    while place + BLOCK <= len(whole):
        head = bytearray(whole[place : place + BLOCK])
        head[148:156] = b" " * 8
        whole[place + 148 : place + 156] = b"%06o\0 " % sum(head)
        try:
            size = tarfile.nti(bytes(head[124:136]))
        except tarfile.HeaderError:
            break
        if not any(head[:100]) or size < 0:
            break
        place += BLOCK + -(-size // BLOCK) * BLOCK
    return bytes(whole)
