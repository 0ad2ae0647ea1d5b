"""Bundles that are changed by hand, and may agree with their manifest all the same."""

import hashlib
import io
import json
import tarfile

MANIFEST = "manifest.json"


def unpacked(path):
    """Return what a bundle holds, by name."""
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def packed(files, *more):
    """Return the bundle that these files make, and more members beside them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in (*files.items(), *more):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def signed(files, /, **changes):
    """Return files whose manifest agrees with them, changed as told."""
    manifest = json.loads(files[MANIFEST]) | changes
    for entry in manifest["files"]:
        data = files[entry["path"]]
        entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return files | {MANIFEST: json.dumps(manifest).encode()}


def without(files, *names):
    return {name: data for name, data in files.items() if name not in names}
