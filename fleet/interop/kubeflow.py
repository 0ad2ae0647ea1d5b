"""A project's pipeline as Kubeflow Pipelines takes it: `PipelineSpec`, by the compiler of the kfp SDK.

Each task is a *stage* of a run (`fleet/pipeline/stage.py`) and calls the modelfleet that its image has
installed, so that the file stays the same when modelfleet's code changes. A task's source is the text
of its function here, and kfp puts `from kfp import dsl` before it: it can use nothing else of this
module. No task is cached by Kubeflow: a folder behind an address changes, and what is kept in it is
known by the hash of its inputs.

The only module that imports kfp.
"""

import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

from kfp import compiler, dsl

DESCRIPTION: Final = "From rows to a bundle: the pipeline of {}, by fleet pipeline compile."


def validate(project: dsl.Input[dsl.Artifact], folder: dsl.Output[dsl.Artifact]) -> str:
    """Read the rows and hold them against their schema; return what it has against them."""
    from fleet.pipeline.stage import run_stage

    record = run_stage("validate", project.path, folder.path)
    return record.validation.verdict if record.validation is not None else ""


def train(project: dsl.Input[dsl.Artifact], folder: dsl.Output[dsl.Artifact]) -> str:
    """Search for parameters, where that is asked for, and train; return the id of the run."""
    from fleet.pipeline.stage import run_stage

    return run_stage("train", project.path, folder.path).id


def evaluate(
    project: dsl.Input[dsl.Artifact],
    folder: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    version: str,
) -> str:
    """Convert the model to ONNX and judge that on rows it has not seen; return the verdict."""
    from fleet.pipeline.stage import run_stage

    record = run_stage("evaluate", project.path, folder.path, version)
    for name, value in record.metrics.items():
        metrics.log_metric(name, value)
    return record.verdict.outcome if record.verdict is not None else ""


def bundle(
    project: dsl.Input[dsl.Artifact],
    folder: dsl.Output[dsl.Artifact],
    packed: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
    version: str,
) -> str:
    """Write the model card and pack the bundle as `fleet push` takes it; return its manifest's digest."""
    import shutil
    from pathlib import Path

    from fleet.pipeline.stage import run_stage

    record = run_stage("bundle", project.path, folder.path, version)
    if record.bundle is None:
        raise ValueError("the run made no bundle")
    run = Path(folder.path) / "runs" / record.id
    shutil.copyfile(run / "model.bundle", packed.path)
    shutil.copyfile(run / "report.html", report.path)
    packed.metadata.update(
        model=record.model, version=record.bundle.version, manifest=record.bundle.manifest
    )
    return record.bundle.manifest


class Outcome(NamedTuple):
    """What a run of the pipeline gives.

    Attributes:
        manifest: Digest that identifies the release.
        verdict: bless, refuse or inconclusive.
        rows: What the schema has against the rows.
        run: Id of the run: the same as outside Kubeflow.
        packed: The bundle.
    """

    manifest: str
    verdict: str
    rows: str
    run: str
    packed: dsl.Model


def compile_pipeline(model: str, image: str) -> str:
    """Return the YAML of the pipeline: the same text for the same model, image and SDK.

    Args:
        model: The model's name; the pipeline is called by it, in Kubernetes' letters.
        image: Of the tasks' containers, with `modelfleet[fleet,pipeline,kubeflow]` in it.
    """
    tasks = {
        function.__name__: dsl.component(
            function,
            base_image=image,
            # It is in the image, at the version that the file was compiled with.
            install_kfp_package=False,
        )
        for function in (validate, train, evaluate, bundle)
    }

    def pipeline(project: str, version: str = "") -> Outcome:
        """From rows to a bundle.

        Args:
            project: Address of the project's folder: `s3://`, `gs://` or `minio://`; a path under `kfp.local`.
            version: Of the bundle; empty for what `pipeline.toml` says.
        """
        source = dsl.importer(artifact_uri=project, artifact_class=dsl.Artifact, reimport=True)
        validated = _task(tasks["validate"], project=source.output)
        trained = _task(tasks["train"], project=validated.outputs["folder"])
        judged = _task(tasks["evaluate"], project=trained.outputs["folder"], version=version)
        packed = _task(tasks["bundle"], project=judged.outputs["folder"], version=version)
        return Outcome(
            manifest=packed.outputs["Output"],
            verdict=judged.outputs["Output"],
            rows=validated.outputs["Output"],
            run=trained.outputs["Output"],
            packed=packed.outputs["packed"],
        )

    made = dsl.pipeline(pipeline, name=pipeline_name(model), description=DESCRIPTION.format(model))
    with tempfile.TemporaryDirectory(prefix="compile-") as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(made, str(path))
        return path.read_text(encoding="utf-8")


def pipeline_name(model: str) -> str:
    """Return a model's name in Kubernetes' letters: lower case, digits and `-`."""
    return model.lower().replace("_", "-").strip("-")


def _task(component: Any, **inputs: Any) -> Any:
    task = component(**inputs)
    task.set_caching_options(enable_caching=False)
    return task
