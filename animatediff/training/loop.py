"""The training loop of every stage: steps, checkpoints, validation and reports.

A step's weights follow from the config and the number of the step. Processes and
accumulation turns only divide the work of its batch, and a resumed run ends with the
same weights as an uninterrupted one.
"""

import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import yaml
from torch import Tensor

from ..errors import GenerationError
from ..video.clip import Video
from ..video.writers import write_video
from . import checkpoint
from .config import TrainConfig
from .export import Origin
from .feeding import Entry, GlobalBatch, load, slots
from .learners import Sample
from .processes import Processes, StopSignal
from .progress import Window, in_words
from .reading import open_reader
from .report import Report
from .source import Broken
from .stages import STAGES, build_learner
from .state import TrainingState

log = logging.getLogger(__name__)
_NAMES_SHOWN = 5


class Trainer:
    """One run of a config.

    Raises ConfigurationError, AssetError or CheckpointError before the first step.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.output_dir = config, Path(config.output_dir)
        self.processes = Processes(config.precision)
        self.batch = GlobalBatch(
            config.batch_size, config.gradient_accumulation_steps, self.processes.count
        )
        self.learner = build_learner(config, self.batch)
        self.learner.encoders_to(self.processes.device)
        resumed = checkpoint.resumed(config)
        self.learner.to(self.processes.device)
        self.state = TrainingState(config, self.learner, self.processes)
        if resumed is not None:
            self.state.restore(resumed)
        self.reader = open_reader(config, self.learner)
        self.clips = self.reader.clips
        self._num_reported = 0
        self._saved: Path | None = None
        self._stop = StopSignal(self.processes)
        self.report = (
            Report(self.output_dir, self.step) if self.processes.is_main else None
        )

    @property
    def step(self) -> int:
        """The number of steps that are done."""
        return self.state.step

    def run(self) -> bool:
        """Train to the last step, or to the end of the step in which a SIGTERM comes.

        Either way there is a checkpoint, which contains the export; after the last step
        the export is in ``output_dir/export`` too. Returns whether the last step was
        reached. Raises GenerationError if the loss is not finite.
        """
        if self.processes.is_main:
            self._write_config()
            self._log_start()
        with self._stop.handled():
            self._run_steps()
        saved = self._saved
        if saved != checkpoint.folder_of(self.output_dir, self.step) or saved is None:
            saved = self._save()
        is_finished = self.step >= self.config.steps
        if is_finished:
            self._validate()
        if self.report is not None:
            if is_finished:
                self._publish(saved)
            self.report.close()
            outcome = "finished" if is_finished else "stopped"
            log.info("%s at step %d of %d", outcome, self.step, self.config.steps)
        self.processes.wait()
        return is_finished

    def close(self) -> None:
        """Leave the process group, if there is one."""
        self.processes.end()

    def _write_config(self) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        table = self.config.model_dump(mode="json")
        text = yaml.safe_dump(table, sort_keys=False)
        (self.output_dir / "config.yaml").write_text(text, encoding="utf-8")

    def _log_start(self) -> None:
        sizes = (parameter.numel() for parameter in self.state.parameters.values())
        log.info(
            "%s: %s trainable parameters, %s items a step (%s x %s turns x %s"
            " processes), on %s",
            self.config.stage,
            f"{sum(sizes):,}",
            len(self.batch),
            self.batch.batch_size,
            self.batch.accumulation,
            self.batch.num_processes,
            self.processes.device,
        )

    def _run_steps(self) -> None:
        window = Window(self.processes)
        for turns in self._turns():
            loss, norm = self._train(turns)
            self.state.step += 1
            window.add(loss, norm)
            if self._stop.received():
                return
            if self._is_logged():
                self._log_step(window)
            with window.paused():
                if self._is_due(self.config.checkpoint_every):
                    self._save()
                if self._is_due(self.config.validation.every):
                    self._validate()

    def _is_logged(self) -> bool:
        is_last = self.step == self.config.steps
        return is_last or self.step % self.config.log_every == 0

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0 and self.step < self.config.steps

    def _turns(self) -> Iterator[list[list[Entry]]]:
        """Yield the entries of every step from here on, a list for each turn."""
        steps = range(self.step, self.config.steps)
        size, seed = len(self.clips), self.config.seed
        places = slots(self.batch, size, seed, self.processes.index, steps)
        loaded = load(self.reader, places, self.config.data.workers)
        for _ in steps:
            yield [next(loaded) for _ in range(self.batch.accumulation)]

    def _train(self, turns: Sequence[list[Entry]]) -> tuple[Tensor, Tensor]:
        """One step; see ``TrainingState.advance``."""
        batches = (self._prepare(entries) for entries in turns)
        return self.state.advance(batches, len(turns))

    def _prepare(self, entries: Sequence[Entry]) -> dict[str, Tensor]:
        broken = [pair for _, item in entries for pair in item.get("broken", ())]
        if broken:
            self.clips.note(broken)
        return self.learner.prepare(entries, self.processes.device)

    def _save(self) -> Path:
        """Save a checkpoint with the export of the averaged weights inside.

        One process writes it; all wait for it.
        """
        target = checkpoint.folder_of(self.output_dir, self.step)
        if self.processes.is_main:
            part = checkpoint.begin(self.output_dir, self.step)
            torch.save(self.state.contents(), part / checkpoint.STATE)
            self._export(part / "export")
            checkpoint.finish(part, self.config.keep)
            if self.report is not None:
                self.report.draw()
            log.info("saved %s", target)
        self.processes.wait()
        self._saved = target
        return target

    def _export(self, folder: Path) -> None:
        config = self.config
        origin = Origin(config.stage, config.fingerprint(), self.step)
        with self.state.ema.in_place():
            self.learner.before_export(self.clips)
            STAGES[config.stage].export(self.learner, config, folder, origin)

    def _publish(self, saved: Path) -> None:
        target = self.output_dir / "export"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(saved / "export", target)

    def _validate(self) -> None:
        """Make clips and figures of the averaged weights. All wait for one process."""
        if self.report is not None:
            with self.state.ema.in_place():
                figures = {
                    f"validation/{name}": value
                    for name, value in self.learner.measure(self.clips).items()
                }
                for sample in self.learner.show(self.clips):
                    self._show(self.report, sample)
            if figures:
                self.report.add(self.step, figures)
                texts = (f"{name} {value:.4g}" for name, value in figures.items())
                log.info("step %d: %s", self.step, ", ".join(texts))
        self.processes.wait()

    def _show(self, report: Report, sample: Sample) -> None:
        fps = self.config.validation.fps
        folder = self.output_dir / "validation" / f"step-{self.step:07}"
        folder.mkdir(parents=True, exist_ok=True)
        video = Video(sample.frames, fps)
        metadata = {"stage": self.config.stage, "steps": self.step}
        path = folder / f"{sample.name}.gif"
        write_video(video, path, format="gif", metadata=metadata)
        report.show(f"validation/{sample.name}", sample.frames, fps, self.step)

    def _log_step(self, window: Window) -> None:
        loss, norm, seconds = window.read()
        if not math.isfinite(loss):
            raise GenerationError(
                f"the loss is not finite at step {self.step}; the last checkpoint is"
                " kept"
            )
        if self.report is None:
            return
        rate = self.state.learning_rate
        self._log_progress(loss, rate, seconds)
        figures = {
            "loss": loss,
            "lr": rate,
            "grad_norm": norm,
            "seconds_per_step": seconds,
        }
        self.report.add(self.step, figures)
        self._log_broken(self.clips.report())

    def _log_progress(self, loss: float, rate: float, seconds: float) -> None:
        left = seconds * (self.config.steps - self.step)
        end = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + left))
        log.info(
            "step %d of %d: loss %.5f, lr %.3g, %.3f s a step, ends about %s (in %s)",
            self.step,
            self.config.steps,
            loss,
            rate,
            seconds,
            end,
            in_words(left),
        )

    def _log_broken(self, broken: Broken) -> None:
        new = broken[self._num_reported :]
        if new:
            names = "; ".join(
                f"{name} ({reason})" for name, reason in new[:_NAMES_SHOWN]
            )
            log.warning("%d files cannot be read so far: %s", len(broken), names)
            self._num_reported = len(broken)
