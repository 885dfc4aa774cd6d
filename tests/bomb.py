"""What a hostile file holds."""

from pathlib import Path


class Bomb:
    """Makes a file where it is unpickled as pickle does by itself."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), 'w'))
