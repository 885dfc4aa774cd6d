"""``cakd-mm COMMAND ...``: the tools by name, in any folder and without a checkout."""

import runpy
import sys
from pathlib import Path

import cakd_mm  # noqa: F401  (before any config is read: registers `cakd_mm::`)
from cakd_mm.utils.errors import nearest
from cakd_mm.utils.tool_process import start_tool
from cakd_mm.utils.tools import COMMANDS, tool

USAGE = """usage: cakd-mm COMMAND [arguments of the tool]

distill           a student of your own images, from a folder to student.pth
train, test       a config: train it, or score its checkpoint
extract           the student out of a checkpoint
export            the student as ONNX and torch.export, compared with it
plot, report      runs as pictures, or as a page for the browser
demo              what a teacher gains on scikit-learn's digits
reproduce         tables of the paper, in a clone
from-torchvision, from-repdistiller
                  published weights as checkpoints
statistics        mean and deviation of a config's images
run SCRIPT        another script, mmpretrain's tools/test.py say, on configs with
                  bases of the form cakd_mm::...

cakd-mm COMMAND -h explains its arguments.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run a tool as from the command line.

    Args:
        arguments (list[str], optional): Defaults to those of the process.

    Raises:
        SystemExit: there is no such command, or the tool ends so.
    """
    if arguments is None:
        start_tool()
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ('-h', '--help'):
        print(USAGE)
        return
    command, *rest = words
    if command in COMMANDS:
        script = str(tool(COMMANDS[command]))
        sys.argv = [f'cakd-mm {command}', *rest]
    elif command == 'run' and rest:
        script = rest[0]
        sys.argv = rest
        # Python does so for a script, because it may import its neighbours.
        sys.path.insert(0, str(Path(script).resolve().parent))
    elif command == 'run':
        raise SystemExit(f'cakd-mm run: which script?\n{USAGE}')
    else:
        like = nearest(command, [*COMMANDS, 'run'])
        raise SystemExit(
            f'cakd-mm has no command {command!r}; like it: {like}.\n{USAGE}'
        )
    runpy.run_path(script, run_name='__main__')


if __name__ == '__main__':
    main()
