"""Kills, stops or cuts off parts of a training on two nodes, and times how it ends.

Each node is a torchrun on this machine, with ranks and a work dir of its own. To cut
the network takes root on Linux: each node is then in a network namespace, and a pair
of virtual cards joins them.

    python benchmarks/rank_kills.py --work-dir /tmp/rank_kills
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ROOT / 'tools' / 'dist_train.sh'
CONFIG = ROOT / 'configs' / 'cakd' / 'demo_digits.py'
POLL = 0.1  # seconds
START = 180  # seconds within which the first steps are logged
OPTIONS = (
    'model.teacher_ckpt=None',
    'model.allow_random_teacher=True',
    'train_cfg.max_epochs=100000',
    'train_cfg.val_interval=100000',
    'default_hooks.checkpoint.interval=100000',
    'default_hooks.logger.interval=1',
    'train_dataloader.num_workers=1',
    'train_dataloader.persistent_workers=True',
)
# The nodes' namespaces, cards and addresses.
NAMES, CARDS = ('rank_kills_0', 'rank_kills_1'), ('rank_kills_a', 'rank_kills_b')
ADDRESSES = ('10.213.7.1', '10.213.7.2')


class Node:
    """A torchrun and all processes below it.

    Args:
        number (int): Its rank among the nodes.
        args (argparse.Namespace): Those of this script.
        folder (Path): Its disk, which no other node has.
        port (int): Where the nodes meet.
        has_network (bool): Whether it is in a network namespace of its own.
    """

    def __init__(
        self,
        number: int,
        args: argparse.Namespace,
        folder: Path,
        port: int,
        has_network: bool,
    ) -> None:
        folder.mkdir(parents=True)
        self.printed = folder / 'printed.log'
        self.work_dir = folder / 'out'
        changes = dict(
            NNODES='2',
            NODE_RANK=str(number),
            MASTER_ADDR=ADDRESSES[0] if has_network else '127.0.0.1',
            GLOO_SOCKET_IFNAME=CARDS[number] if has_network else 'lo',
            PORT=str(port),
            PYTHON=sys.executable,
            PYTHONPATH=str(ROOT),
            PYTHONWARNINGS='ignore',
            OMP_NUM_THREADS='1',
            CUDA_VISIBLE_DEVICES='',
        )
        # `ip` and the script replace themselves, so that torchrun has this pid.
        command = ['ip', 'netns', 'exec', NAMES[number]] if has_network else []
        command += [str(TRAIN), str(CONFIG), str(args.ranks), '--work-dir', 'out']
        command += ['--cfg-options', f'env_cfg.dist_cfg.timeout={args.timeout}']
        with self.printed.open('w', encoding='utf-8') as log:
            self.torchrun = subprocess.Popen(
                [*command, *OPTIONS],
                cwd=folder,
                env={**os.environ, **changes},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.workers: list[int] = []
        self.loaders: list[int] = []

    def note_processes(self) -> None:
        """Note what runs now, because a dead process names no children."""
        if self.torchrun.poll() is not None:
            return
        self.workers = children(self.torchrun.pid)
        self.loaders = [pid for worker in self.workers for pid in children(worker)]

    @property
    def processes(self) -> dict[int, str]:
        """What each of its processes is."""
        kinds = dict(worker=self.workers, loader=self.loaders)
        found = {pid: kind for kind, pids in kinds.items() for pid in pids}
        return {self.torchrun.pid: 'torchrun', **found}

    def kill(self) -> None:
        """End all of it at once."""
        for pid in self.processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def children(parent: int) -> list[int]:
    """Return the direct children of a process on Linux."""
    files = Path(f'/proc/{parent}/task').glob('*/children')
    return [int(pid) for file in files for pid in file.read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether a process has not ended; one that is stopped has not."""
    try:
        stat = Path(f'/proc/{pid}/stat').read_text(encoding='utf-8')
    except OSError:
        return False
    return stat.rpartition(')')[2].split()[0] not in 'ZX'


def kill_worker(node: Node) -> None:
    os.kill(node.workers[-1], signal.SIGKILL)


def stop_worker(node: Node) -> None:
    os.kill(node.workers[-1], signal.SIGSTOP)


def kill_torchrun(node: Node) -> None:
    node.torchrun.kill()


def cut_network(_: Node) -> None:
    run('-n', NAMES[1], 'link', 'set', CARDS[1], 'down')


def run(*words: str) -> None:
    subprocess.run(['ip', *words], check=True)


CASES: dict[str, Callable[[Node], None]] = {
    'a worker is killed': kill_worker,
    'torchrun is killed': kill_torchrun,
    'all of a node is killed': Node.kill,
    'the network is cut': cut_network,
    'a worker hangs (SIGSTOP)': stop_worker,
}


@contextmanager
def network() -> Iterator[None]:
    """Make the namespaces of two nodes, which are joined."""
    run('link', 'add', CARDS[0], 'type', 'veth', 'peer', 'name', CARDS[1])
    for name, card, address in zip(NAMES, CARDS, ADDRESSES, strict=True):
        run('netns', 'add', name)
        run('link', 'set', card, 'netns', name)
        run('-n', name, 'addr', 'add', f'{address}/24', 'dev', card)
        for device in (card, 'lo'):
            run('-n', name, 'link', 'set', device, 'up')
    try:
        yield
    finally:
        for name in NAMES:
            run('netns', 'del', name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def trial(case: str, where: int, args: argparse.Namespace, folder: Path) -> str:
    """Start a training, strike at one node, and return a row of the table."""
    cuts = case == 'the network is cut'
    with network() if cuts else nullcontext():
        port = free_port()
        nodes = [Node(x, args, folder / f'node{x}', port, cuts) for x in (0, 1)]
        try:
            wait_for_steps(nodes)
            for node in nodes:
                node.note_processes()
            CASES[case](nodes[where])
            ended = wait_for_ends(nodes, args.patience)
        finally:
            for node in nodes:
                node.note_processes()
                node.kill()
                node.torchrun.wait()
    return f'| {case} | {"both" if cuts else where} | {" | ".join(ended)} |'


def wait_for_steps(nodes: list[Node]) -> None:
    """Wait until the first node has logged a step.

    Raises:
        RuntimeError: a node has ended before.
    """
    deadline = time.monotonic() + START
    while not any(nodes[0].work_dir.glob('*/vis_data/scalars.json')):
        for node in nodes:
            if node.torchrun.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f'It has not begun to train, see {node.printed}')
        time.sleep(POLL)


def wait_for_ends(nodes: list[Node], patience: float) -> list[str]:
    """Return, for each node, the seconds until all of its processes have ended."""
    began = time.monotonic()
    last = [0.0 for _ in nodes]
    left = [node.processes for node in nodes]
    while any(left) and time.monotonic() < began + patience:
        for index, node in enumerate(nodes):
            node.torchrun.poll()
            if left[index]:
                last[index] = time.monotonic() - began
                left[index] = {p: k for p, k in left[index].items() if is_alive(p)}
        time.sleep(POLL)
    return [
        f'still there: {", ".join(sorted({*kinds.values()}))}'
        if kinds
        else f'{end:.1f}'
        for end, kinds in zip(last, left, strict=True)
    ]


def main() -> None:
    """Try every case and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--timeout', type=int, default=20, help='of dist_cfg, seconds')
    parser.add_argument('--patience', type=float, default=90, help='seconds a case')
    parser.add_argument('--ranks', type=int, default=1, help='on each node')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/rank_kills'))
    parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES))
    args = parser.parse_args()
    folder = args.work_dir.resolve()
    if folder.exists():
        parser.error(f'--work-dir {folder}: it exists; name a new folder')
    print('| what happens | at node | seconds until node 0 has ended | node 1 |')
    print('| --- | --- | --- | --- |')
    for number, case in enumerate(args.cases):
        if case == 'the network is cut' and os.geteuid() != 0:
            print(f'| {case} | both | not tried: it takes root | |')
            continue
        for where in (1,) if case == 'the network is cut' else (0, 1):
            print(trial(case, where, args, folder / f'{number}_{where}'), flush=True)


if __name__ == '__main__':
    main()
