"""MLflow's model registry as the fleet uses it: a version's file, and versions, tags and aliases.

The only module that imports mlflow: the client of mlflow-skinny, which speaks to a tracking server over
HTTP or to a database. Usage statistics, which it sends by itself, are off.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fleet.core.mirror import Registered
from wire.errors import ConfigError, ModelfleetError, PeerError, TransferError

SCHEME: Final = "models:/"
VARIABLE: Final = "MLFLOW_TRACKING_URI"
ALIASES: Final = "modelfleet.aliases"
"""Tag of a model: the aliases that the mirror has set, with a space between them."""
PAGE: Final = 200
_URI: Final = re.compile(
    r"models:/(?P<model>[^/:@\x00-\x1f\x7f]{1,256})(@(?P<alias>[\w-]{1,255})|/(?P<number>[0-9]{1,9}))"
)
_SETTINGS: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Of 7, with a doubled wait before each, a command would hang for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""What the client is told where the user has not said it."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model in the registry.

    Attributes:
        model: The model's name.
        number: Its number, from 1.
        run: Id of the run that logged it, "" where there is none.
    """

    model: str
    number: int
    run: str

    @property
    def uri(self) -> str:
        """What it is called by, for ever: an alias moves."""
        return f"{SCHEME}{self.model}/{self.number}"

    def origin(self) -> dict[str, str]:
        """Return what a bundle says of where it comes from."""
        said = {"mlflow.model": self.model, "mlflow.version": str(self.number)}
        return {**said, "mlflow.run": self.run} if self.run else said


class Registry:
    """A model registry; connects when it is asked something."""

    def __init__(self, tracking_uri: str | None = None) -> None:
        """Remember where it is.

        Args:
            tracking_uri: `http://…`, or a database such as `sqlite:///mlflow.db`; else
                MLFLOW_TRACKING_URI.

        Raises:
            ConfigError: `mlflow_missing`, or `mlflow_unset`.
        """
        uri = tracking_uri or os.environ.get(VARIABLE, "")
        if not uri:
            raise ConfigError(
                "nobody said where MLflow is",
                code="mlflow_unset",
                hint=f"give --tracking-uri, or set {VARIABLE}",
            )
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient
        except ImportError as exc:
            raise ConfigError(
                f"MLflow's client is not installed: {exc}",
                code="mlflow_missing",
                hint="pip install 'modelfleet[fleet,mlflow]'",
            ) from exc
        self._uri = uri
        with _asking():
            self._client = MlflowClient(tracking_uri=uri)

    def find(self, uri: str) -> ModelVersion:
        """Return the version that `models:/NAME@ALIAS` or `models:/NAME/NUMBER` means now.

        Raises:
            PeerError: `mlflow_uri`, or `mlflow_refused`: there is none.
            TransferError: `mlflow_unreachable`.
        """
        found = _URI.fullmatch(uri)
        if found is None:
            raise PeerError(
                f"{uri[:300]!r} names no version of a model in MLflow",
                code="mlflow_uri",
                hint="write models:/NAME@ALIAS or models:/NAME/NUMBER",
            )
        model, alias, number = found["model"], found["alias"], found["number"]
        with _asking():
            if alias is not None:
                version = self._client.get_model_version_by_alias(model, alias)
            else:
                version = self._client.get_model_version(model, number)
        return ModelVersion(model, int(version.version), version.run_id or "")

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        """Fetch what of a version can be converted into an empty folder; return the file.

        Raises:
            PeerError: `mlmodel_invalid`, `mlmodel_unfit`, or `mlflow_refused`.
            TransferError: `mlflow_unreachable`.
        """
        # Here: PyYAML comes with MLflow's client, and not with every install of the commands.
        from .mlmodel import FILE_NAME, MAX_MLMODEL_BYTES, read_mlmodel

        described = self._file(version, FILE_NAME, folder / "described")
        with described.open("rb") as file:
            raw = file.read(MAX_MLMODEL_BYTES + 1)
        return self._file(version, read_mlmodel(raw).path, folder / "model")

    def _file(self, version: ModelVersion, path: str, folder: Path) -> Path:
        from mlflow.artifacts import download_artifacts

        with _asking():
            there = download_artifacts(
                f"{version.uri}/{path}",
                dst_path=str(folder),
                tracking_uri=self._uri,
                registry_uri=self._uri,
            )
        found = Path(there).resolve()
        if not found.is_relative_to(folder.resolve()) or not found.is_file():
            raise PeerError(f"{version.uri} has no file {path}", code="mlmodel_invalid")
        return found

    def versions(self, model: str) -> list[Registered]:
        """Return all versions of a model, none where there is no such model."""
        found: list[Registered] = []
        token: str | None = None
        with _asking():
            while token is None or token:
                page: Any = self._client.search_model_versions(
                    f"name='{model}'", max_results=PAGE, page_token=token or None
                )
                found += [
                    Registered(int(one.version), one.run_id or "", dict(one.tags)) for one in page
                ]
                token = page.token or ""
        return found

    def aliases(self, model: str) -> tuple[dict[str, int], frozenset[str]]:
        """Return a model's aliases, and which of them the mirror has set; it is made if it is not there."""
        with _asking():
            found = self._model(model)
            if found is None:
                self._client.create_registered_model(
                    model,
                    description="With the releases of a modelfleet, by `fleet mirror mlflow`.",
                )
                return {}, frozenset()
        own = found.tags.get(ALIASES, "").split()
        there = {alias: int(number) for alias, number in found.aliases.items()}
        return there, frozenset(own) & there.keys()

    def _model(self, model: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_registered_model(model)
        except MlflowException as exc:
            if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def register(self, model: str, source: str, tags: Mapping[str, str]) -> int:
        """Make a version that says where it lies, with its tags; return its number."""
        with _asking():
            made = self._client.create_model_version(model, source, tags=dict(tags))
        return int(made.version)

    def tag(
        self, model: str, number: int, tags: Mapping[str, str], stale: Collection[str] = ()
    ) -> None:
        """Set tags of a version, and remove others."""
        with _asking():
            for key, value in tags.items():
                self._client.set_model_version_tag(model, str(number), key, value)
            for key in stale:
                self._client.delete_model_version_tag(model, str(number), key)

    def own_aliases(self, model: str, own: Collection[str]) -> None:
        """Remember which aliases are the mirror's."""
        with _asking():
            self._client.set_registered_model_tag(model, ALIASES, " ".join(sorted(own)))

    def set_alias(self, model: str, alias: str, number: int) -> None:
        """Have an alias mean a version."""
        with _asking():
            self._client.set_registered_model_alias(model, alias, str(number))

    def delete_alias(self, model: str, alias: str) -> None:
        """Have an alias mean nothing."""
        with _asking():
            self._client.delete_registered_model_alias(model, alias)


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """Tell errors of the client in the fleet's own."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except ModelfleetError:
        raise
    except MlflowException as exc:
        why = (str(exc).strip().splitlines() or [""])[0][:300]
        if exc.error_code == "INTERNAL_ERROR":
            raise TransferError(
                f"MLflow does not answer: {why}",
                code="mlflow_unreachable",
                hint=f"check --tracking-uri or {VARIABLE}",
            ) from exc
        raise PeerError(f"MLflow refused: {why}", code="mlflow_refused") from exc
    except (OSError, ImportError) as exc:
        # What is not there yet, a database driver or a cloud's client, is imported when it is asked.
        raise TransferError(
            f"MLflow cannot be asked: {str(exc)[:300]}", code="mlflow_unreachable"
        ) from exc
