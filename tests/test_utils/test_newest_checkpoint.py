import os

import pytest
import torch

from cakd_mm.utils.newest_checkpoint import newest_checkpoint


def save(path, when, **content):
    """Write a training checkpoint of a time."""
    path.parent.mkdir(exist_ok=True)
    weights = dict(weight=torch.zeros(500))
    state = dict(optimizer={}, meta=dict(epoch=1, iter=1), message_hub={})
    torch.save(dict(state_dict=weights, **{**state, **content}), path)
    os.utime(path, (when, when))
    return path


def save_student(path, when):
    torch.save(dict(state_dict=dict(weight=torch.zeros(5))), path)
    os.utime(path, (when, when))


@pytest.mark.parametrize(
    'named',
    [
        None,
        '',
        'epoch_2.pth',
        'gone.pth',
        's3',
        b'\xff',
        'x' * 5000,
        b'a\0b',
        b'/dev/null',
    ],
)
def test_whatever_last_checkpoint_says(tmp_path, named):
    for number in (8, 9, 10):
        save(tmp_path / f'epoch_{number}.pth', number)
    save(tmp_path / 'epoch_2.pth', 2)
    if named is not None:
        content = named if isinstance(named, bytes) else str(tmp_path / named).encode()
        (tmp_path / 'last_checkpoint').write_bytes(content)
    found = newest_checkpoint(tmp_path, {})
    assert found.path == str(tmp_path / 'epoch_10.pth')
    assert found.checkpoint['optimizer'] == {}
    assert not found.cut and not found.refused


def test_the_time_decides_and_then_the_number(tmp_path):
    save(tmp_path / 'epoch_10.pth', 1)  # of a longer run before
    for number in (1, 2):
        save(tmp_path / f'epoch_{number}.pth', 5)
    assert newest_checkpoint(tmp_path, {}).path == str(tmp_path / 'epoch_2.pth')
    save(tmp_path / 'iter_7.pth', 6)
    assert newest_checkpoint(tmp_path, {}).path == str(tmp_path / 'iter_7.pth')


def test_a_cut_one_is_passed_over(tmp_path):
    older, newer = (save(tmp_path / f'epoch_{i}.pth', i) for i in (1, 2))
    whole = newer.read_bytes()
    for length in (0, 2, 100, len(whole) // 2, len(whole) - 1):
        newer.write_bytes(whole[:length])
        os.utime(newer, (2, 2))
        found = newest_checkpoint(tmp_path, {})
        assert found.path == str(older), length
        assert list(found.cut) == [str(newer)], length
        assert str(newer) in found.cut[str(newer)]
    older.write_bytes(b'')
    found = newest_checkpoint(tmp_path, {})
    assert found.path is None
    assert set(found.cut) == {str(older), str(newer)}


@pytest.mark.parametrize('content', [b'no checkpoint at all', b'\0' * 3000])
def test_what_is_no_checkpoint_is_told_from_a_cut_one(tmp_path, content):
    (tmp_path / 'epoch_3.pth').write_bytes(content)
    torch.save([1, 2], tmp_path / 'epoch_4.pth')  # whole, but without weights
    found = newest_checkpoint(tmp_path, {})
    assert found.path is None
    paths = {str(tmp_path / f'epoch_{number}.pth') for number in (3, 4)}
    assert set(found.refused) == paths and not found.cut


def test_neither_the_best_nor_a_student_nor_a_folder(tmp_path):
    save(tmp_path / 'epoch_1.pth', 1)
    (tmp_path / 'epoch_9.pth').mkdir()
    names = ('best_top1_epoch_3', 'student', 'student_best', 'epoch_1_student')
    for name in names:
        save_student(tmp_path / f'{name}.pth', 3)
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / f'{name}.pth'))
        found = newest_checkpoint(tmp_path, {})
        assert found.path == str(tmp_path / 'epoch_1.pth')
        assert not found.cut and not found.refused


def test_where_the_hook_puts_them(tmp_path):
    work_dir = tmp_path / 'run'
    work_dir.mkdir()
    hook = dict(out_dir=str(tmp_path / 'large'), filename_tmpl='at_{}.pt')
    (tmp_path / 'large').mkdir()
    path = save(tmp_path / 'large' / 'run' / 'at_3.pt', 3)
    cfg = dict(default_hooks=dict(checkpoint=hook))
    assert newest_checkpoint(work_dir, cfg).path == str(path)
    assert newest_checkpoint(work_dir, {}).path is None
    (work_dir / 'last_checkpoint').write_text(str(path))
    assert newest_checkpoint(work_dir, {}).path == str(path)


def test_one_on_a_server(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('s3://bucket/epoch_3.pth')
    assert newest_checkpoint(tmp_path, {}).path == 's3://bucket/epoch_3.pth'


@pytest.mark.parametrize('cfg', [{}, dict(default_hooks=dict(checkpoint=None))])
def test_an_empty_or_missing_work_dir(tmp_path, cfg):
    for folder in (tmp_path, tmp_path / 'none'):
        assert newest_checkpoint(folder, cfg).path is None


@pytest.mark.parametrize('template', ['at_{:03d}.pth', '{:04}[x].pth', '{}'])
def test_a_number_with_a_format_of_its_own(tmp_path, template):
    for number in (2, 10):
        save(tmp_path / template.format(number), number)
    save_student(tmp_path / 'student.pth', 11)
    cfg = dict(default_hooks=dict(checkpoint=dict(filename_tmpl=template)))
    newest = tmp_path / template.format(10)
    assert newest_checkpoint(tmp_path, cfg).path == str(newest)
