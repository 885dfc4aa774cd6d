"""Reproduce a whole table; ``research/`` of a clone does it, see its README.md."""

from cakd_mm.utils.tool_process import start_tool
from cakd_mm.utils.tools import add_research

add_research(__file__)

from research.reproduce import main  # noqa: E402

if __name__ == '__main__':
    start_tool()
    main()
