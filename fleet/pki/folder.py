"""Where the authority's files are, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fleet.durable import write_durably
from wire.errors import StorageError


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The files of a private key and of its certificate."""

    key: Path
    certificate: Path


@dataclass(frozen=True, slots=True)
class PkiFolder:
    """The files in `<store dir>/pki`; private keys are readable by their owner only."""

    root: Path

    @property
    def ca(self) -> KeyPair:
        """The authority's; whoever has the key can let anybody in."""
        return KeyPair(self.root / "ca.key", self.root / "ca.pem")

    @property
    def server(self) -> KeyPair:
        """What broker and device listener show to devices."""
        return self.program("server")

    @property
    def controller(self) -> KeyPair:
        """The controller's, for its connection to the broker."""
        return self.program("controller")

    @property
    def observer(self) -> KeyPair:
        """For people who look: reads every topic and writes none."""
        return self.program("observer")

    def program(self, name: str) -> KeyPair:
        """Return the files of one of the fleet's own programs."""
        return KeyPair(self.root / f"{name}.key", self.root / f"{name}.pem")

    @property
    def crl(self) -> Path:
        """Revoked certificates, for brokers that read a list."""
        return self.root / "crl.pem"

    @property
    def mosquitto_acl(self) -> Path:
        """Mosquitto's table of rights."""
        return self.root / "mosquitto.acl"

    @property
    def nats_users(self) -> Path:
        """NATS's: one user for each certificate that may be used."""
        return self.root / "nats-users.conf"

    @property
    def is_founded(self) -> bool:
        """Whether there is an authority here."""
        return self.ca.certificate.exists()


def write_private(path: Path, data: bytes) -> None:
    """Put `data` at `path`, readable by its owner only; whole and durable, or not at all.

    Raises:
        StorageError: `pki_unwritable`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(path, data, mode=0o600)
    except OSError as exc:
        raise StorageError(
            f"cannot write {path}: {exc.strerror}",
            code="pki_unwritable",
            hint="is the disk full, or does the fleet belong to another user?",
        ) from exc
