"""What became of a process."""

from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether it runs; not if it is dead and waits to be asked for."""
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except FileNotFoundError:
        return False
    return state != 'Z'
