import os

import pytest

from cakd_mm.utils.ownership import distrust


@pytest.mark.parametrize('mode', [0o600, 0o644, 0o660, 0o602, 0o666])
@pytest.mark.parametrize('kind', ['file', 'folder', 'link'])
def test_what_others_can_write(tmp_path, mode, kind):
    path = tmp_path / "it's here"
    path.mkdir() if kind == 'folder' else path.touch()
    path.chmod(mode)
    given = path
    if kind == 'link':
        given = tmp_path / 'link'
        given.symlink_to(path)
    found = distrust(given)
    assert (found is None) == (mode in (0o600, 0o644))
    if found is not None and kind != 'link':
        assert found[0] == 'Other users can write it.'
        assert found[1] == f"""Type chmod go-w '{tmp_path}/it'"'"'s here'."""


def test_what_is_another_users(tmp_path, monkeypatch):
    assert distrust(tmp_path) is None
    me = os.geteuid()
    monkeypatch.setattr(os, 'geteuid', lambda: me + 1)
    assert distrust(tmp_path) == (
        'It belongs to another user.',
        'Name a folder of your own.',
    )


@pytest.mark.skipif(os.geteuid() != 0, reason='only root may give a link away')
def test_a_link_of_another_user_to_my_folder(tmp_path):
    link = tmp_path / 'link'
    link.symlink_to(tmp_path)
    assert distrust(link) is None
    os.lchown(link, 12345, 12345)
    assert 'another user' in distrust(link)[0]


def test_where_a_system_does_not_tell(tmp_path, monkeypatch):
    tmp_path.chmod(0o777)
    monkeypatch.delattr(os, 'geteuid')
    assert distrust(tmp_path) is None


def test_a_missing_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        distrust(tmp_path / 'none')
