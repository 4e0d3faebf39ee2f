"""Run inside the image: python check_clip.py FILE WIDTH HEIGHT FRAMES. Every frame is
decoded, and they must differ.
"""

import sys

from imageio_ffmpeg import read_frames


def main() -> int:
    path, width, height, count = sys.argv[1], *map(int, sys.argv[2:])
    reader = read_frames(path)
    size = next(reader)["size"]
    frames = list(reader)
    found = (size, len(frames), {len(frame) for frame in frames}, len(set(frames)) > 1)
    expected = ((width, height), count, {width * height * 3}, True)
    print(
        f"{count} frames of {width}x{height}"
        if found == expected
        else f"found {found}, expected {expected}"
    )
    return 0 if found == expected else 1


if __name__ == "__main__":
    sys.exit(main())
