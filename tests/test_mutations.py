"""200 mutations of our keys: every error names the key, and none is raw."""

from typing import ClassVar

import pytest
from mmengine.config import Config
from mmengine.model import BaseModule
from mutations import METHODS, base_config, first_step, judge, outcomes

SEED, COUNT = 18, 200


@pytest.fixture
def cheap(monkeypatch):
    """Leave out what costs time in every run and has no part in an error."""
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    monkeypatch.setattr(Config, 'pretty_text', '')
    monkeypatch.setattr(BaseModule, '_dump_init_info', lambda self: None)


def test_every_error_names_the_key(tmp_path, cheap):
    found = outcomes(tmp_path, SEED, COUNT)
    wrong = [str(x) for x in found if x.verdict not in ('named', 'accepted')]
    assert len(found) == COUNT
    assert not wrong, '\n'.join(wrong)
    # A mutation that nobody notices is one of a value that is as good, or of a name
    # that is the user's own.
    accepted = [x.key for x in found if x.verdict == 'accepted']
    assert len(accepted) < COUNT // 5, accepted


@pytest.mark.parametrize('method', METHODS)
def test_what_is_mutated_trains(method, tmp_path, cheap):
    first_step(base_config(method, tmp_path), tmp_path / 'run')


class TestJudge:
    path: ClassVar = ('model', 'distiller', 'x', 'tau')

    @pytest.mark.parametrize(
        ('text', 'verdict'),
        [
            ('`model.distiller.x.tau` = 7: No.', 'named'),
            ('`model.distiller.y.tau` = 7: No.', 'misdirected'),
            ('tau must be positive', 'raw'),
        ],
    )
    def test_a_text(self, text, verdict):
        assert judge(ValueError(text), self.path, '= 7') == verdict

    def test_a_misspelt_key_may_be_named_as_it_is_written(self):
        error = ValueError('`model.distiller.x.taus` = 7: No.')
        assert judge(error, self.path, 'misspelt taus') == 'named'
