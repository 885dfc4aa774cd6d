"""Is a file a whole image?"""

import os

from PIL import Image

JPEG_END = b'\xff\xd9'


def ends_well(path: str) -> bool:
    """Whether a file ends as a whole jpeg does: cheap, and no decoding."""
    try:
        with open(path, 'rb', buffering=0) as file:
            file.seek(-len(JPEG_END), os.SEEK_END)
            return file.read() == JPEG_END
    except OSError:  # nothing in it, or no such file
        return False


def why_unreadable(path: str) -> str | None:
    """Return what Pillow finds wrong with an image, None if nothing.

    Pillow refuses a truncated image. OpenCV 4 may fill up what is missing.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    return None
