"""Where caches are."""

from pathlib import Path

from cakd_mm.utils.caching import cache_folder


def test_the_folder_of_caches(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'caches'))
    assert cache_folder('auto') == tmp_path / 'caches' / 'cakd_mm'
    assert cache_folder(None) is None
    assert cache_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv('HOME', str(tmp_path))
    assert cache_folder('~/there') == tmp_path / 'there'
    for value in ('', None):
        if value is None:
            monkeypatch.delenv('XDG_CACHE_HOME')
        else:
            monkeypatch.setenv('XDG_CACHE_HOME', value)
        assert cache_folder('auto') == tmp_path / '.cache' / 'cakd_mm'


def test_without_a_home_there_is_no_cache(monkeypatch):
    def expanduser(path):
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.setattr(Path, 'expanduser', expanduser)
    assert cache_folder('auto') is None
