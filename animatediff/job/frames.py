"""Where the images of a control belong in the clip."""

from collections.abc import Sequence

from ..errors import InvalidRequest


def place_frames(
    field: str, frame_indices: Sequence[int], num_images: int, num_frames: int
) -> list[int]:
    """Frame numbers from 0, one for each image; a negative index counts from the end.

    Raises InvalidRequest, for ``field``, if an index is outside the clip's
    ``num_frames`` or names a frame twice, or if there is not one for each image.
    """
    indices = list(frame_indices)
    if not indices or len(indices) != num_images:
        raise InvalidRequest(field, indices, f"one for each of {num_images} images")
    frames = [_frame(field, index, num_frames) for index in indices]
    if len(set(frames)) < len(frames):
        raise InvalidRequest(field, indices, "every frame once")
    return frames


def _frame(field: str, index: int, num_frames: int) -> int:
    if not -num_frames <= index < num_frames:
        raise InvalidRequest(field, index, f"{-num_frames} to {num_frames - 1}")
    return index % num_frames
