"""Tests of whether a file is a whole image."""

import os

from PIL import Image

JPEG_END = b'\xff\xd9'


def ends_well(path: str) -> bool:
    """Return whether a file ends as a whole jpeg does, without decoding it."""
    try:
        with open(path, 'rb', buffering=0) as file:
            file.seek(-len(JPEG_END), os.SEEK_END)
            return file.read() == JPEG_END
    except OSError:  # an empty file, or no such file
        return False


def why_unreadable(path: str) -> str | None:
    """Return why Pillow cannot read an image, None if it can.

    Pillow is asked because it refuses a truncated image, whose missing part OpenCV 4
    may fill up.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    return None
