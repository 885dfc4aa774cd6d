"""How differently do feature losses pull at the same student? See ``research/``."""

from cakd_mm.utils.tools import add_research, use_utf8

add_research(__file__)

from research.compare_gradients import main  # noqa: E402

if __name__ == '__main__':
    use_utf8()
    main()
