"""What the README shows is run or looked up, not only read."""

import re
import shlex

import yaml
from mmrazor.registry import MODELS
from pages import ROOT, blocks, check_losses, losses_of, train_page
from tiny import CONFIGS

from cakd_mm.utils.net_names import named_net
from cakd_mm.utils.tools import tool

README = (ROOT / 'README.md').read_text(encoding='utf-8')
MOST_WORDS = 900
# Name, README, losses and paper of a method.
ROW = r'^\| \[(.*?)\]\((.*?)\) \| (.*?) \| .*?\((.*?)\) \|$'


def test_it_is_short():
    assert len(README.split()) <= MOST_WORDS


def test_a_pair_of_your_own(tmp_path):
    (config,) = blocks('README.md', heading='A pair of your own')
    runner = train_page(config, tmp_path, size=64)
    assert type(runner.model.student.backbone).__name__ == 'MobileNetV2'
    assert runner.model.teacher.backbone.depth == 50
    assert set(losses_of(runner)) == {'student.loss', 'distill.loss_cakd'}


def test_one_command_for_your_own_images(monkeypatch):
    """tests/test_own_images runs it with small nets; these are the README's."""
    monkeypatch.syspath_prepend(str(tool('distill.py').parent))
    from distill import parse_args

    (line,) = blocks('README.md', 'bash', heading='Your own images')
    command, name, *words = shlex.split(line)
    assert [command, name] == ['cakd-mm', 'distill']
    args = parse_args(words)
    assert args.alone
    for option, net in (('--teacher', args.teacher), ('--student', args.student)):
        assert named_net(net, option).net.type == 'ImageClassifier'


def test_a_loss_from_python():
    (code,) = blocks('README.md', heading='A loss from Python')
    check_losses(code)


def test_the_table_has_every_method_with_its_losses_and_its_paper():
    rows = re.findall(
        r'^\| \[(.*?)\]\((.*?)\) \| (.*?) \| .*?\((.*?)\) \|$', README, re.M
    )
    found = {readme: (name, paper) for name, readme, _, paper in rows}
    expected = {}
    for file in CONFIGS.glob('*/metafile.yml'):
        for collection in yaml.safe_load(file.read_text())['Collections']:
            if collection.get('Paper'):
                paper = collection['Paper']['URL']
                expected[collection['README']] = (collection['Name'], paper)
    assert found == expected
    losses = {name for row in rows for name in re.findall(r'`(\w+)`', row[2])}
    assert losses <= set(MODELS.module_dict)
    assert {f'configs/{name}/README.md' for name in ('cakd', 'dkd')} <= set(found)
