"""Decode every frame of a clip and check that not all of them are equal.

Runs inside the image: python check_clip.py FILE WIDTH HEIGHT FRAMES
"""

import sys

from imageio_ffmpeg import read_frames


def main() -> int:
    """Return 0 if the clip has the size, length and motion that it should have."""
    path, width, height, count = sys.argv[1], *map(int, sys.argv[2:])
    reader = read_frames(path)
    size = next(reader)["size"]
    frames = list(reader)
    frame_sizes = {len(frame) for frame in frames}
    facts = (size, len(frames), frame_sizes, len(set(frames)) > 1)
    expected = ((width, height), count, {width * height * 3}, True)
    if facts != expected:
        print(f"decoded {facts}, expected {expected}")
        return 1
    print(f"{count} frames of {width}x{height}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
