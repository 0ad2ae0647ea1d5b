"""The controller's composition root: store, link, ingest loop and HTTP API in one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """What `run_controller` needs to know.

    Attributes:
        broker_url: `mqtt://HOST:PORT` and its kin.
        listen: Host and port of the HTTP API; port 0 takes a free one.
        store_path: The SQLite file; made when absent.
        data_dir: Where chunk payloads and uploads in progress are kept.
        controller_id: MQTT client id.
        on_ready: Called once, when the API accepts connections; from the API's thread.
    """

    broker_url: str
    listen: tuple[str, int]
    store_path: Path
    data_dir: Path
    controller_id: str = "controller"
    on_ready: Callable[[], None] | None = None


def run_controller(settings: ControllerSettings) -> None:
    """Run the controller in the foreground until SIGINT or SIGTERM."""
    raise NotImplementedError
