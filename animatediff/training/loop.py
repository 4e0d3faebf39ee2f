"""The loop of training, the same for every stage: steps, moving average, checkpoints,
and what is said of it.

A step's weights follow from the config and the number of the step. Processes and turns
of accumulation only share the work of its batch, and a run that goes on from a
checkpoint makes the same weights as one that was never interrupted.
"""

import hashlib
import json
import logging
import math
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from diffusers.optimization import get_scheduler
from torch import Tensor

from ..errors import CheckpointError, ConfigurationError, GenerationError
from ..video.clip import Video
from ..video.writers import write_video
from . import checkpoint
from .config import TrainConfig
from .ema import MovingAverage
from .export import Origin
from .feeding import GlobalBatch, LatentCache, Reader, load, slots
from .learners import DenoisingLearner, Entry
from .report import Report
from .stages import STAGES, build_learner, open_clips

log = logging.getLogger(__name__)

_SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine"}
_STATE_VERSION = 1


class Trainer:
    """One run of a config. Raises ConfigurationError, AssetError and CheckpointError
    before the first step.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.output_dir = config, Path(config.output_dir)
        self.accelerator = _accelerator(config)
        self.device = self.accelerator.device
        self.batch = GlobalBatch(
            config.batch_size,
            config.gradient_accumulation_steps,
            self.accelerator.num_processes,
        )
        self.learner = build_learner(config, self.batch)
        self._place_encoders()
        found = checkpoint.find(config)
        state = None if found is None else self._checked(checkpoint.read(found), found)
        self.learner.to(self.device)
        parameters = self.learner.trained()
        self.optimizer = torch.optim.AdamW(
            parameters.values(),
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
            eps=config.optimizer.eps,
        )
        self.schedule = get_scheduler(
            _SCHEDULES[config.schedule.name],
            self.optimizer,
            num_warmup_steps=config.schedule.warmup_steps,
            num_training_steps=config.steps,
        )
        self.model, self.stepper = self.accelerator.prepare(
            self.learner, self.optimizer
        )
        self.ema = MovingAverage(parameters, config.ema.decay)
        self.parameters = parameters
        self.step = 0
        if state is not None:
            self._restore(state)
            log.info("going on from %s", found)
        self.clips, self.reader = self._reader()
        self._told_broken = 0
        self._stop = False
        self.report = (
            Report(self.output_dir, self.step)
            if self.accelerator.is_main_process
            else None
        )

    # --------------------------------------------------------------------------------------------------
    # the run

    def run(self) -> bool:
        """Train to the last step; a SIGTERM ends it after the step it comes in. Returns
        whether it came to the end.

        Either way there is a checkpoint, with what was learned so far in the published
        layout inside; at the end that is in ``output_dir/export`` too. Raises
        GenerationError where the loss is not finite.
        """
        config = self.config
        if self.accelerator.is_main_process:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            (self.output_dir / "config.yaml").write_text(text, encoding="utf-8")
            count = sum(parameter.numel() for parameter in self.parameters.values())
            log.info(
                "%s: %s parameters train, %s items a step (%s x %s turns x %s"
                " processes), on %s",
                *(config.stage, f"{count:,}", len(self.batch), config.batch_size),
                *(self.batch.accumulation, self.batch.num_processes, self.device),
            )
        saved = None
        with self._stopped_by_signal():
            window = _Window(self.device)
            for entries in self._turns():
                loss, norm = self._train(entries)
                self.step += 1
                window.add(loss, norm)
                if self._wants_stop():
                    break
                if self.step % config.log_every == 0 or self.step == config.steps:
                    self._log(window)
                with window.paused():
                    if self._is_due(config.checkpoint_every):
                        saved = self._save()
                    if self._is_due(config.validation.every):
                        self._validate()
        finished = self.step >= config.steps
        if saved is None or saved != checkpoint.folder_of(self.output_dir, self.step):
            saved = self._save()
        if finished:
            self._validate()
        if self.report is not None:
            if finished:
                shutil.rmtree(self.output_dir / "export", ignore_errors=True)
                shutil.copytree(saved / "export", self.output_dir / "export")
            self.report.close()
            log.info(
                "%s at step %d of %d",
                "done" if finished else "stopped",
                self.step,
                config.steps,
            )
        self.accelerator.wait_for_everyone()
        return finished

    def close(self) -> None:
        """Leave the process group, if there is one."""
        self.accelerator.end_training()

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0 and self.step < self.config.steps

    def _turns(self) -> Iterator[list[list[Entry]]]:
        """The entries of every step from here on, a list for each turn of accumulation."""
        steps = range(self.step, self.config.steps)
        places = slots(
            self.batch,
            len(self.clips),
            self.config.seed,
            self.accelerator.process_index,
            steps,
        )
        loaded = load(self.reader, places, self.config.data.workers)
        for _ in steps:
            yield [next(loaded) for _ in range(self.batch.accumulation)]

    def _train(self, turns: Sequence[list[Entry]]) -> tuple[Tensor, Tensor]:
        """One step of the optimizer. Returns this process's mean loss, and the
        gradients' norm before clipping.
        """
        total = torch.zeros((), device=self.device)
        for turn, entries in enumerate(turns):
            self._note_broken(entries)
            batch = self.learner.prepare(entries, self.device)
            last = turn == len(turns) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.model(batch).mean() / len(turns)
                self.accelerator.backward(loss)
            total += loss.detach()
        norm = self.accelerator.clip_grad_norm_(
            self.parameters.values(), self.config.max_grad_norm
        )
        self.stepper.step()
        if not self.accelerator.optimizer_step_was_skipped:
            self.schedule.step()
            self.learner.after_step()
            self.ema.update()
        self.stepper.zero_grad()
        return total, torch.as_tensor(norm, device=self.device)

    def _note_broken(self, entries: Sequence[Entry]) -> None:
        broken = [pair for _, item in entries for pair in item.get("broken", ())]
        if broken:
            self.clips.note(broken)

    # ----------------------------------------------------------------------------------------
    # what is kept of it

    def _checked(self, state: dict[str, Any], found: Path) -> dict[str, Any]:
        """Raises CheckpointError for another stage's; says which keys changed since it
        was written.
        """
        before, now = json.loads(state["config"]), self.config.deciding()
        if state.get("version") != _STATE_VERSION or before["stage"] != now["stage"]:
            raise CheckpointError(
                f"{found.name} is a checkpoint of the stage {before['stage']}",
                file=found.name,
            )
        changed = checkpoint.changed_keys(before, now)
        if changed:
            log.warning(
                "changed since %s, so this is another run from there on: %s",
                found.name,
                ", ".join(changed),
            )
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        own = {**self.parameters, **self.learner.carried()}
        kept = state["trained"] | state["carried"]
        if {k: v.shape for k, v in own.items()} != {
            k: v.shape for k, v in kept.items()
        }:
            raise CheckpointError(
                "the checkpoint is of a model with other weights than this config's"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(kept[name])
        self.ema.restore(state["ema"]["num_updates"], state["ema"]["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        self.step = state["step"]

    def _save(self) -> Path:
        """A checkpoint, with the export of the averaged weights inside. Written by one
        process, awaited by all.
        """
        target = checkpoint.folder_of(self.output_dir, self.step)
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "version": _STATE_VERSION,
                "step": self.step,
                "config": json.dumps(self.config.deciding()),
                "trained": {
                    name: parameter.detach()
                    for name, parameter in self.parameters.items()
                },
                "carried": {
                    name: tensor.detach()
                    for name, tensor in self.learner.carried().items()
                },
                "ema": self.ema.state(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else {},
                # nothing draws from it: chance comes of the seed, the step, the place
                "rng": torch.get_rng_state(),
            }
            part = checkpoint.begin(self.output_dir, self.step)
            torch.save(state, part / checkpoint.STATE)
            origin = Origin(self.config.stage, self.config.fingerprint(), self.step)
            with self.ema.in_place():
                self.learner.before_export(self.clips)
                STAGES[self.config.stage].export(
                    self.learner, self.config, part / "export", origin
                )
            checkpoint.finish(part, self.config.keep)
            if self.report is not None:
                self.report.draw()
            log.info("saved %s", target)
        self.accelerator.wait_for_everyone()
        return target

    def _validate(self) -> None:
        """Clips and numbers of the averaged weights, by one process; the others wait."""
        if self.report is not None:
            fps = self.config.validation.fps
            folder = self.output_dir / "validation" / f"step-{self.step:07}"
            with self.ema.in_place():
                numbers = {
                    f"validation/{name}": value
                    for name, value in self.learner.measure(self.clips).items()
                }
                for shown in self.learner.show(self.clips):
                    folder.mkdir(parents=True, exist_ok=True)
                    origin = {"stage": self.config.stage, "steps": self.step}
                    path = folder / f"{shown.name}.gif"
                    write_video(
                        Video(shown.frames, fps), path, format="gif", metadata=origin
                    )
                    self.report.show(
                        f"validation/{shown.name}", shown.frames, fps, self.step
                    )
            if numbers:
                self.report.say(self.step, numbers)
                log.info(
                    "step %d: %s",
                    self.step,
                    ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()),
                )
        self.accelerator.wait_for_everyone()

    def _log(self, window: "_Window") -> None:
        loss, norm, seconds = window.read(self.accelerator)
        if not math.isfinite(loss):
            raise GenerationError(
                f"the loss is not finite at step {self.step}; the last checkpoint stays"
            )
        if self.report is None:
            return
        lr = self.schedule.get_last_lr()[0]
        left = seconds * (self.config.steps - self.step)
        end = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + left))
        log.info(
            "step %d of %d: loss %.5f, lr %.3g, %.3f s a step, ends about %s (in %s)",
            *(self.step, self.config.steps, loss, lr, seconds, end, _length(left)),
        )
        numbers = {
            "loss": loss,
            "lr": lr,
            "grad_norm": norm,
            "seconds_per_step": seconds,
        }
        self.report.say(self.step, numbers)
        broken = self.clips.report()
        if len(broken) > self._told_broken:
            names = "; ".join(
                f"{name} ({reason})" for name, reason in broken[self._told_broken :][:5]
            )
            log.warning("%d files cannot be read so far: %s", len(broken), names)
            self._told_broken = len(broken)

    # -------------------------------------------------------------------------------------------------
    # around it

    def _place_encoders(self) -> None:
        if isinstance(self.learner, DenoisingLearner):
            self.learner.encoders.vae.to(self.device)
            self.learner.encoders.text_encoder.to(self.device)

    def _reader(self) -> tuple[Any, Reader]:
        """The data, and what reads them: through the cache of latents, if there is to
        be one.
        """
        config, cache, words, learner = self.config, None, None, self.learner
        sketches = config.uses_sketches
        if config.latent_cache.enabled:
            if not isinstance(learner, DenoisingLearner):
                raise ConfigurationError(
                    "latent_cache: this stage reads no latents",
                    setting="latent_cache.enabled",
                )
            folder = Path(config.latent_cache.folder or self.output_dir / "latents")
            data = config.data.deciding()
            data.pop("size", None)
            key = json.dumps(
                [data, sketches, _hash(learner.encoders.vae)], sort_keys=True
            )
            cache = learner.cache = LatentCache(
                folder, key, config.latent_cache.variants
            )
            words = config.data.open_captions()
        clips = open_clips(config, whole=cache is not None)
        return clips, Reader(clips, cache, words, sketches=sketches)

    @contextmanager
    def _stopped_by_signal(self) -> Iterator[None]:
        """In here a SIGTERM asks for the end of the run instead of ending the process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(_signal: int, _frame: Any) -> None:
            self._stop = True

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _wants_stop(self) -> bool:
        """Whether any process was asked to stop: all must end after the same step."""
        if self.accelerator.num_processes == 1:
            return self._stop
        asked = torch.tensor(float(self._stop), device=self.device)
        total: Any = self.accelerator.reduce(asked, "sum")
        return bool(total > 0)


class _Window:
    """Loss, gradient norm and time of the steps since the last line of the log. Nothing
    waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begin()

    def _begin(self) -> None:
        self._sums, self._count, self._start = (
            torch.zeros(2, device=self._device),
            0,
            time.monotonic(),
        )

    def add(self, loss: Tensor, norm: Tensor) -> None:
        self._sums += torch.stack([loss.float(), norm.float()])
        self._count += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in here is not counted as time of a step."""
        before = time.monotonic()
        yield
        self._start += time.monotonic() - before

    def read(self, accelerator: Accelerator) -> tuple[float, float, float]:
        """Mean loss over all processes, mean norm, seconds a step; and begin anew."""
        sums: Any = accelerator.reduce(self._sums, "mean")
        loss, norm = (sums / self._count).tolist()
        seconds = (time.monotonic() - self._start) / self._count
        self._begin()
        return loss, norm, seconds


def _accelerator(config: TrainConfig) -> Accelerator:
    on_cpu = not torch.cuda.is_available()
    if on_cpu and config.precision == "fp16":
        raise ConfigurationError("precision: fp16 needs a GPU", setting="precision")
    frozen_buffers = DistributedDataParallelKwargs(broadcast_buffers=False)
    # torch 2.13 has a new name for it, which accelerate 1.15 cannot pass on
    warnings.filterwarnings(
        "ignore", message=".*broadcast_buffers.*", category=FutureWarning
    )
    return Accelerator(
        cpu=on_cpu, mixed_precision=config.precision, kwargs_handlers=[frozen_buffers]
    )


def _hash(model: Any) -> str:
    """Of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(
            tensor.detach()
            .cpu()
            .contiguous()
            .flatten()
            .view(torch.uint8)
            .numpy()
            .tobytes()
        )
    return digest.hexdigest()


def _length(seconds: float) -> str:
    """A length of time in words."""
    hours, rest = divmod(math.ceil(seconds), 3600)
    return (
        f"{hours} h {rest // 60:02} min"
        if hours
        else f"{rest // 60} min {rest % 60:02} s"
    )
