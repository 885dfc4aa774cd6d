"""What the log of a run says of where it was made."""

from cakd_mm.visualization.report.facts import read_facts

LINE = '2026/11/28 17:34:22 - mmengine - INFO - '
LOG = f"""{LINE}
System environment:
    sys.platform: linux
    Python: 3.11.7 (main, May  9 2026, 07:35:25) [GCC 12.2.0]
    CUDA available: True
    GPU 0,1: NVIDIA H200
    PyTorch: 2.14.1+cu130
    PyTorch compiling details: PyTorch built with:
    MMEngine: 0.10.12
{LINE}The teacher is t/epoch_20.pth; 5 classes; it scored accuracy/top1 71.00
{LINE}cakd_mm 0.1.0, /venv/cakd_mm
{LINE}Computing with 1 thread(s), half of the 2 cores
"""


def test_the_last_start_counts(tmp_path):
    for name, text in {
        '20260102_000000': LOG,
        '20260101_000000': 'cakd_mm 9, ',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f'{name}.log').write_text(text)
    facts = read_facts(tmp_path)
    assert facts.packages == (
        'cakd_mm 0.1.0, PyTorch 2.14.1+cu130, MMEngine 0.10.12, Python 3.11.7'
    )
    assert facts.machine == (
        'NVIDIA H200. Computing with 1 thread(s), half of the 2 cores'
    )
    [teacher] = facts.teachers
    assert teacher.startswith('The teacher is t/epoch_20.pth')
    assert teacher.endswith('it scored accuracy/top1 71.00')


def test_no_log(tmp_path):
    facts = read_facts(tmp_path)
    assert (facts.packages, facts.machine, facts.teachers) == ('', '', [])
