"""The models that stay loaded between jobs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .controls.kinds import LoadedControl, load_control
from .errors import AssetError, CheckpointError
from .fetch.weight_file import WeightFile
from .job.prepared import StackKey
from .pipeline import AnimationPipeline
from .progress import Check, no_check


@dataclass(frozen=True)
class Placement:
    """Where and how models run."""

    device: torch.device
    dtype: torch.dtype
    attention: str = "sdpa"


@dataclass(frozen=True, eq=False)
class JobModels:
    """The models of one job: the pipeline with its weights, and the controls."""

    pipeline: AnimationPipeline
    controls: Sequence[LoadedControl]
    warnings: tuple[str, ...] = ()


class WarmModels:
    """Loads what a job needs and keeps it. Only what differs is loaded anew.

    Not thread-safe.
    """

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.stack: StackKey | None = None
        """The loaded files."""
        self.controls: dict[WeightFile, LoadedControl] = {}
        """The controls of the last job."""
        self._base: WeightFile | None = None
        self._pipeline: AnimationPipeline | None = None
        self._weight_warnings: tuple[str, ...] = ()

    def load(
        self, stack: StackKey, controls: Sequence[WeightFile], check: Check = no_check
    ) -> JobModels:
        """Return the models of a job.

        Raises AssetError and CheckpointError, and what ``check`` raises; the parts that
        were not reached are then as before. After any other error, everything is loaded
        anew the next time.
        """
        pipeline = self.configure(stack, check)
        branches = self._load_controls(pipeline, controls, check)
        warnings = (*pipeline.warnings, *self._weight_warnings)
        return JobModels(pipeline, branches, warnings)

    def configure(self, stack: StackKey, check: Check = no_check) -> AnimationPipeline:
        """Return the pipeline with the weights of ``stack``, see ``load``."""
        pipeline = self._pipeline
        if pipeline is None or self._base != stack.base:
            check()
            pipeline = self._load_base(stack.base)
        if self.stack != stack:
            check()
            self._exchange(pipeline, stack)
        return pipeline

    def holds(self, base: WeightFile) -> bool:
        """Whether the base model in the folder ``base`` is loaded."""
        return self._base == base

    def move_copies_to_host(self) -> bool:
        """Free the device of copies of weights; return whether there were any."""
        pipeline = self._pipeline
        return pipeline is not None and pipeline.weights.patcher.move_copies_to_host()

    def forget(self) -> None:
        """Drop all models."""
        self.stack, self._base, self._pipeline = None, None, None
        self.controls.clear()

    def _load_base(self, base: WeightFile) -> AnimationPipeline:
        self.forget()  # frees memory first: two base models need not fit the device
        self._pipeline = AnimationPipeline.from_pretrained(
            base.path,
            device=self.placement.device,
            dtype=self.placement.dtype,
            attention=self.placement.attention,
        )
        self._base = base
        return self._pipeline

    def _exchange(self, pipeline: AnimationPipeline, stack: StackKey) -> None:
        """Load the weights of ``stack`` over the base model that is loaded."""
        is_new = self.stack is None or self.stack.motion != stack.motion
        try:
            warnings = pipeline.configure_weights(
                stack.motion if is_new else None,
                stack.dreambooth,
                stack.loras,
                vae=stack.vae,
            )
        except (AssetError, CheckpointError):
            raise  # raised before any weight was changed
        except BaseException:
            self.forget()
            raise
        self.stack, self._weight_warnings = stack, warnings

    def _load_controls(
        self,
        pipeline: AnimationPipeline,
        files: Sequence[WeightFile],
        check: Check,
    ) -> list[LoadedControl]:
        """Load the controls of a job; others are dropped first."""
        for file in self.controls.keys() - set(files):
            del self.controls[file]
        for file in files:
            if file not in self.controls:
                check()
                self.controls[file] = load_control(
                    pipeline.unet, file, self.placement.attention
                )
        return [self.controls[file] for file in files]
