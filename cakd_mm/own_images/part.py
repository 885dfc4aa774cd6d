"""One training of a folder of results, in a process of its own."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmengine.config import Config

from ..utils.checkpoint import hash_of
from ..utils.machine import end_with
from ..utils.newest_checkpoint import named_checkpoints
from ..utils.tools import tool
from ..visualization.history import read_logs
from ..visualization.sweep import dotted, influencing


@dataclass
class Part:
    """A config that is trained.

    Args:
        name (str): What it is called, in its folder too.
        config (Path): The config.
        arguments (list[str]): More arguments of ``tools/train.py``.
        gpus (int): On how many GPUs, or in how many processes.
        teacher_ckpt (str, optional): A file on which its result depends. Defaults to
            None.
    """

    name: str
    config: Path
    arguments: list[str]
    gpus: int
    teacher_ckpt: str | None = None

    def __post_init__(self) -> None:
        """Read its config."""
        self.cfg = Config.fromfile(self.config)
        self.work_dir = Path(self.cfg.work_dir)
        self.checkpoint = self.work_dir / f'epoch_{self.cfg.train_cfg.max_epochs}.pth'

    @property
    def settings(self) -> str:
        """What tells it from a training with other settings, or of another teacher."""
        named = {dotted(key): value for key, value in influencing(self.cfg).items()}
        content = [named, self.cfg.get('randomness'), self.arguments]
        if self.teacher_ckpt is not None and Path(self.teacher_ckpt).is_file():
            content.append(hash_of(Path(self.teacher_ckpt)))
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def scores(self) -> dict[int, float]:
        """Top-1 in percent by epoch, as far as it has come."""
        return read_logs(self.work_dir)[0].scores

    def command(self) -> list[str]:
        """Return what trains it, going on where it was."""
        arguments = [*self.arguments]
        # Without a checkpoint there `--resume` would drop the config's load_from.
        if named_checkpoints(self.work_dir, self.cfg):
            arguments.insert(0, '--resume')
        if self.gpus > 1:
            script = [str(tool('dist_train.sh')), str(self.config), str(self.gpus)]
            return ['bash', *script, *arguments]
        python = [sys.executable, '-W', 'ignore']
        return [*python, str(tool('train.py')), str(self.config), *arguments]

    def train(self) -> None:
        """Train it; it ends with this process.

        Raises:
            SystemExit: it failed; the message has its command.
        """
        run_tool(self.name, self.command())


def run_tool(name: str, command: list[str]) -> None:
    """Run a tool in a process that ends with this one.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run(
        command,
        env={**os.environ, 'PYTHON': sys.executable},
        preexec_fn=partial(end_with, os.getpid()),
    )
    if done.returncode:
        code = done.returncode
        how = f'killed by signal {-code}' if code < 0 else f'exit status {code}'
        typed = shlex.join(command)
        raise SystemExit(f'{name} failed ({how}), as said above. Its command: {typed}')
