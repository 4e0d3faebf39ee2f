"""The weight files of a job, each under the field that names it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from .clip import Clip

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class NamedFile:
    """A file as a job names it: ``field`` is its place in the job, for messages."""

    field: str
    reference: str


@dataclass(frozen=True)
class JobFiles(Generic[T]):
    """One value for each weight file of a job, its base model aside."""

    motion_module: T
    dreambooth: T | None = None
    vae: T | None = None
    loras: tuple[T, ...] = ()
    embeddings: tuple[T, ...] = ()
    controls: tuple[T, ...] = ()

    def __iter__(self) -> Iterator[T]:
        """Yield all values, in the order of the job's fields."""
        yield self.motion_module
        for value in (self.dreambooth, self.vae):
            if value is not None:
                yield value
        yield from (*self.loras, *self.embeddings, *self.controls)

    @property
    def additional(self) -> tuple[T, ...]:
        """The files that take memory of their own; all others replace weights."""
        return (self.motion_module, *self.controls)

    def map(self, function: Callable[[T], U]) -> "JobFiles[U]":
        """Return the same files with ``function`` applied to each value."""
        dreambooth, vae = self.dreambooth, self.vae
        return JobFiles(
            motion_module=function(self.motion_module),
            dreambooth=None if dreambooth is None else function(dreambooth),
            vae=None if vae is None else function(vae),
            loras=tuple(map(function, self.loras)),
            embeddings=tuple(map(function, self.embeddings)),
            controls=tuple(map(function, self.controls)),
        )


def named_files(clip: Clip) -> JobFiles[NamedFile]:
    """Return every weight file that a job names, with its field."""
    dreambooth, vae = clip.dreambooth, clip.vae
    return JobFiles(
        motion_module=NamedFile("motion_module", clip.motion_module),
        dreambooth=None if dreambooth is None else NamedFile("dreambooth", dreambooth),
        vae=None if vae is None else NamedFile("vae", vae),
        loras=_listed("loras", [str(file.path) for file in clip.loras]),
        embeddings=_listed("embeddings", [file.path for file in clip.embeddings]),
        controls=_listed("controls", [file.path for file in clip.controls]),
    )


def _listed(field: str, references: list[str]) -> tuple[NamedFile, ...]:
    return tuple(
        NamedFile(f"{field}.{i}.path", reference)
        for i, reference in enumerate(references)
    )
