"""How differently do feature losses pull at the same student? See ``research/``."""

from cakd_mm.utils.tool_process import start_tool
from cakd_mm.utils.tools import add_research

add_research(__file__)

from research.compare_gradients import main  # noqa: E402

if __name__ == '__main__':
    start_tool()
    main()
