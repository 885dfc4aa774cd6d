"""The one place that knows about version skew: what it does and what it leaves."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import mmengine
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS
from mmpretrain.registry import MODELS as CLASSIFIERS
from mmrazor.registry import MODELS
from pages import JOINED

from cakd_mm import compat

CURRENT = compat.check_stack() == 'current'

# Run in an interpreter of its own: what is there after the import, as JSON.
SNAPSHOT = """
import json, sys
from importlib.metadata import version
from mmengine.config import utils
known = set(utils.MODULE2PACKAGE)
report = {}
{before}
import cakd_mm
import cakd_mm
from cakd_mm import compat
compat.import_mmrazor()
import mmcv, mmengine, mmrazor, torch
from mmcv.version import __version__ as mmcv_version
from mmrazor.registry import MODELS
genuine = mmengine.utils.digit_version
copies = {
    name: vars(module)['digit_version'] is genuine
    for name, module in list(sys.modules.items())
    if name.split('.')[0] == 'mmrazor' and 'digit_version' in vars(module)
}
report.update(
    mmcv=[mmcv.__version__, mmcv_version],
    torch=[torch.__version__.split('+')[0], version('torch').split('+')[0]],
    copies=copies,
    models=len(MODELS.module_dict),
    packages=sorted(set(utils.MODULE2PACKAGE) - known),
    digit_version=mmrazor.digit_version(torch.__version__)[:2],
    scope=str(mmengine.DefaultScope.get_current_instance()),
)
print('REPORT' + json.dumps(report))
"""
PLAIN_IMPORTS = """
import importlib
for key, name in (('plain', 'mmrazor'), ('whole', 'mmrazor.models')):
    try:
        importlib.import_module(name)
        report[key] = 'works'
    except Exception as error:
        report[key] = type(error).__name__
"""


@pytest.mark.parametrize('before', ['', PLAIN_IMPORTS], ids=['alone', 'mmrazor first'])
def test_import_in_a_fresh_interpreter(request, before):
    """All at once: the import takes seconds."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', SNAPSHOT.replace('{before}', before)],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(request.config.rootpath)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.split('REPORT')[1])
    # What mmrazor does unaided. Where that works one day, the masking can go.
    if before:
        assert report['plain'] == ('AssertionError' if CURRENT else 'works')
        assert report['whole'] == ('AssertionError' if CURRENT else 'ImportError')
    # Nothing is left of the masking.
    assert report['mmcv'][0] == report['mmcv'][1]
    assert report['torch'][0] == report['torch'][1]
    assert report['digit_version'] == list(compat._release(report['torch'][0])[:2])
    copies = report['copies']
    assert {'mmrazor', 'mmrazor.models.quantizers.native_quantizer'} <= set(copies)
    assert len(copies) >= 4
    assert all(copies.values()), copies
    # What is there on purpose.
    assert report['models'] > 100
    assert report['packages'] == ['cakd_mm']
    assert report['scope'] == 'None'


def test_import_again_changes_nothing():
    before = len(MODELS.module_dict)
    compat.import_mmrazor()
    compat.register_package()
    assert len(MODELS.module_dict) == before
    assert not hasattr(Config._file2dict.genuine, 'genuine')  # wrapped once


def scopes(node) -> set:
    """Return all scopes that a config names."""
    found = {node['_scope_']} if isinstance(node, dict) and '_scope_' in node else set()
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, (dict, list, tuple)):
            found |= scopes(value)
    return found


BASES = dict(
    single="_base_ = 'cakd_mm::cakd/demo_digits.py'",
    one_of_a_list="_base_ = ['cakd_mm::cakd/demo_digits.py']",
    joined=JOINED.format(method='cakd_logit')
    + """
_base_.distiller.distill_losses.loss_cakd.update(gamma=2.0)
model = dict(distiller=_base_.distiller)
""",
    nested="_base_ = './single.py'",
)


@pytest.mark.parametrize('name', BASES)
def test_a_base_by_name_is_the_file_it_names(name, tmp_path, root):
    for file, text in BASES.items():
        (tmp_path / f'{file}.py').write_text(text)
    found = Config.fromfile(tmp_path / f'{name}.py').to_dict()
    assert found == Config.fromfile(root / 'configs/cakd/demo_digits.py').to_dict()
    assert scopes(found) == {'mmrazor', 'mmpretrain'}


def test_scopes_of_others_stay(tmp_path):
    path = tmp_path / 'own.py'
    path.write_text("_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'")
    assert scopes(Config.fromfile(path).to_dict()) == {'mmpretrain'}


NET = "{name} = dict({side}=dict(cfg_path='net.py'))"


def test_a_net_belongs_to_the_file_that_says_it(tmp_path):
    (tmp_path / 'base').mkdir()
    for file in ('base/net.py', 'net.py'):
        (tmp_path / file).write_text('model = dict()')
    (tmp_path / 'base/base.py').write_text(NET.format(name='model', side='teacher'))
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(
        "_base_ = 'base/base.py'\n"
        "model = dict(architecture=[dict(cfg_path='net.py')])\n"
        "other = dict(architecture=dict(cfg_path='mmpretrain::resnet/x.py'))\n"
        "absent = dict(teacher=dict(cfg_path='nothing.py'))\n"
        "long = dict(teacher=dict(cfg_path='x' * 3000))\n"
        "foreign = dict(cfg_path='net.py')\n"
    )
    found = Config.fromfile(leaf)
    assert found.model.teacher.cfg_path == str(tmp_path / 'base' / 'net.py')
    assert found.model.architecture[0].cfg_path == str(tmp_path / 'net.py')
    assert found.other.architecture.cfg_path == 'mmpretrain::resnet/x.py'
    assert found.absent.teacher.cfg_path == 'nothing.py'
    assert found.long.teacher.cfg_path == 'x' * 3000
    assert found.foreign.cfg_path == 'net.py'  # none of ours to change


def test_a_net_of_a_config_of_the_new_style(tmp_path):
    (tmp_path / 'net.py').write_text('model = dict()')
    (tmp_path / 'base.py').write_text(NET.format(name='model', side='teacher'))
    (tmp_path / 'lazy.py').write_text(
        'from mmengine.config import read_base\n'
        'from mmengine.model import BaseModel\n'
        'with read_base():\n    from .base import *\n'
        'model.update(type=BaseModel, architecture=dict(cfg_path="net.py"))\n'
    )
    found = Config.fromfile(tmp_path / 'lazy.py')
    for side in ('teacher', 'architecture'):
        assert found.model[side].cfg_path == str(tmp_path / 'net.py')


GUARD = """
import torch
try:
    {attempt}
except ImportError:
    thing = None
if digit_version(torch.__version__) >= digit_version('1.13.0'):
    table = [thing.part]
"""
NO_GUARD = GUARD.replace('digit_version(torch.__version__)', 'thing')
WORKS, FAILS = 'from json import dumps as thing', 'from json import absent as thing'


@pytest.mark.parametrize('file', compat._QUANTISATION)
@pytest.mark.parametrize(
    ('source', 'misfires'),
    [
        (GUARD.format(attempt=WORKS), False),
        (GUARD.format(attempt=FAILS), True),
        (GUARD.format(attempt='import no_such_module_here'), True),
        (NO_GUARD.format(attempt=FAILS), False),
        ('import torch\n', False),
    ],
)
def test_quantisation_misfires(tmp_path, file, source, misfires):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(source)
    assert compat._quantisation_misfires(tmp_path) is misfires


def test_a_release_without_these_modules_needs_no_masking(tmp_path):
    assert compat._quantisation_misfires(tmp_path) is False


def test_sources_that_the_detection_reads_exist():
    """A renamed module would turn the masking off without a word."""
    root = importlib.util.find_spec('mmrazor').submodule_search_locations[0]
    for file in compat._QUANTISATION:
        with open(os.path.join(root, file)) as source:
            assert any(
                isinstance(node, ast.If) for node in ast.parse(source.read()).body
            )


@pytest.mark.parametrize(
    ('cap', 'mmcv', 'accepts'),
    [
        ("mmcv_maximum_version = '2.1.0'", '2.1.0', True),
        ("mmcv_maximum_version = '2.1.0'", '2.0.1', True),
        ("mmcv_maximum_version = '2.1.0'", '2.3.6', False),
        ("mmcv_maximum_version = '2.1.0'", '2.1.1', False),
        ("mmcv_maximum_version = '3.0.0'", '2.10.0', True),
        ("mmcv_minimum_version = '2.0.0'", '2.3.6', True),
        ('import mmcv', '9.9', True),
    ],
)
def test_accepts_mmcv(tmp_path, cap, mmcv, accepts):
    init = tmp_path / '__init__.py'
    init.write_text(f'import mmengine\n{cap}\nassert mmengine\n')
    assert compat._accepts_mmcv(init, mmcv) is accepts


@pytest.mark.parametrize(
    ('text', 'release'),
    [
        ('2.5.1+cu121', (2, 5, 1)),
        ('2.15.0a0+git12ab', (2, 15)),
        ('2.14.0.dev20261101', (2, 14, 0)),
        ('84.2.1', (84, 2, 1)),
    ],
)
def test_release(text, release):
    assert compat._release(text) == release


def test_attribute_is_restored_after_an_exception():
    module = SimpleNamespace(value='genuine')
    with pytest.raises(KeyError), compat._attribute(module, 'value', 'masked'):
        assert module.value == 'masked'
        raise KeyError
    assert module.value == 'genuine'


def test_copies_are_restored_after_an_exception(monkeypatch):
    """An import that fails half-way leaves no masked copy either."""
    import mmrazor

    half = SimpleNamespace()
    monkeypatch.setitem(sys.modules, 'mmrazor.half_imported', half)
    genuine = mmrazor.digit_version
    with pytest.raises(KeyError), compat._masked_digit_version(mmrazor):
        half.digit_version = mmrazor.digit_version
        assert half.digit_version is not genuine
        assert half.digit_version('2.4.0') == genuine('2.4.0')
        import torch

        assert half.digit_version(torch.__version__) == genuine('1.12.0')
        raise KeyError
    assert mmrazor.digit_version is genuine is mmengine.utils.digit_version
    assert half.digit_version is genuine


OURS = {
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmpretrain': '1.3.6',
}
THEIRS = {'mmengine': '0.10.7', 'mmcv-lite': '2.1.0', 'mmpretrain': '1.2.0'}
RUNTIME = {
    'mmrazor': '1.0.0',
    'joblib': '1.6.0',
    'scipy': '1.17.1',
    'scikit-learn': '1.8.0',
    'numpy': '2.4.6',
    'setuptools': '84.2.1',
}
NEW = {**RUNTIME, 'torch': '2.15.0', 'torchvision': '0.29.2'}
OLD = {
    **RUNTIME,
    'torch': '2.5.1+cu121',
    'torchvision': '0.20.1',
    'numpy': '1.26.4',
    'setuptools': '80.9.0',
}
GET_CURRENT = "pip install 'cakd_mm[current]'"
GET_ORIGINAL = "pip install 'cakd_mm[original]'"


def without(table, *names):
    return {name: value for name, value in table.items() if name not in names}


@pytest.fixture
def stack(monkeypatch):
    """Pretend that exactly these distributions are installed."""

    def pretend(table):
        monkeypatch.setattr(
            compat,
            '_installed',
            lambda *names: {n: table[n] for n in names if n in table},
        )
        return compat.check_stack

    return pretend


@pytest.mark.parametrize(
    ('table', 'family'),
    [
        ({**OURS, **NEW}, 'current'),
        ({**OURS, **NEW, 'torch': '2.4.0'}, 'current'),
        ({**OURS, **NEW, 'torch': '3.0.0+cpu'}, 'current'),
        ({**OURS, **NEW, 'torch': '2.10.0'}, 'current'),
        ({**OURS, **without(NEW, 'setuptools')}, 'current'),
        ({**THEIRS, **OLD}, 'original'),
        ({**THEIRS, **OLD, 'torch': '2.1.0'}, 'original'),
        ({**without(THEIRS, 'mmcv-lite'), 'mmcv': '2.1.0', **OLD}, 'original'),
        ({**without(THEIRS, 'mmengine'), 'mmengine-lite': '0.10.7', **OLD}, 'original'),
        ({**THEIRS, **OLD, 'mmcv-lite': '2.0.1', 'mmcls': '1.0.0rc6'}, 'original'),
    ],
)
def test_stacks_that_work(stack, table, family):
    assert stack(table)() == family


@pytest.mark.parametrize(
    ('table', 'named', 'remedy'),
    [
        pytest.param(
            NEW, ['neither family'], f'{GET_CURRENT} (or {GET_ORIGINAL}', id='neither'
        ),
        pytest.param(
            {**OURS, **THEIRS, **NEW},
            ['both', *OURS, *THEIRS],
            'pip uninstall -y onedl-mmengine onedl-mmcv onedl-mmpretrain mmengine '
            f'mmcv-lite mmpretrain, then {GET_CURRENT}.',
            id='both',
        ),
        pytest.param(
            {'onedl-mmcv': '2.3.6', 'mmengine': '0.10.7', 'mmpretrain': '1.2.0', **NEW},
            ['both', 'onedl-mmcv', 'mmengine', 'mmpretrain'],
            'pip uninstall -y onedl-mmcv mmengine mmpretrain, then',
            id='mixed',
        ),
        *(
            pytest.param(
                {**without(OURS, name), **NEW},
                [f'{name} not installed'],
                f'{GET_CURRENT}.',
                id=f'current without {name}',
            )
            for name in OURS
        ),
        *(
            pytest.param(
                {**without(THEIRS, name), **OLD},
                [f'{name} not installed'],
                f'{GET_ORIGINAL}.',
                id=f'original without {name}',
            )
            for name in THEIRS
        ),
        *(
            pytest.param(
                {**family, **without(runtime, name)},
                [f'{name} not installed'],
                f'{get}.',
                id=f'{get[20:28]} without {name}',
            )
            for family, runtime, get in (
                (OURS, NEW, GET_CURRENT),
                (THEIRS, OLD, GET_ORIGINAL),
            )
            for name in compat.RUNTIME
        ),
        pytest.param(
            {**OURS, **without(NEW, 'scipy', 'joblib')},
            ['joblib, scipy not installed'],
            f'{GET_CURRENT}.',
            id='two missing at once',
        ),
        pytest.param(
            {**OURS, **NEW, 'torch': '2.3.1+cpu'},
            ['torch >= 2.4', '2.3.1+cpu'],
            f"pip install 'torch>=2.4' torchvision, or {GET_ORIGINAL}.",
            id='torch too old for current',
        ),
        *(
            pytest.param(
                {**THEIRS, **OLD, 'torch': torch},
                ['torch 2.1 to 2.5', torch],
                f'{GET_ORIGINAL} pins torch; or pip uninstall -y mmengine mmcv-lite '
                f'mmpretrain, then {GET_CURRENT}.',
                id=f'torch {torch} with original',
            )
            for torch in ('2.6.0', '2.15.0', '2.0.1')
        ),
        pytest.param(
            {**THEIRS, **OLD, 'numpy': '2.0.0'},
            ['numpy < 2, found 2.0.0'],
            "pip install 'numpy<2'.",
            id='numpy 2 with original',
        ),
        pytest.param(
            {**THEIRS, **OLD, 'setuptools': '81.0.0'},
            ['setuptools < 81, found 81.0.0'],
            "pip install 'setuptools<81'.",
            id='setuptools 81 with original',
        ),
        pytest.param(
            {**THEIRS, **without(OLD, 'setuptools')},
            ['setuptools < 81, found None'],
            "pip install 'setuptools<81'.",
            id='no setuptools with original',
        ),
        pytest.param(
            {**OURS, **NEW, 'mmrazor': '0.3.1'},
            ['mmrazor 0.3.1'],
            "pip install 'mmrazor==1.0.0'.",
            id='mmrazor 0.x',
        ),
        pytest.param(
            {**without(THEIRS, 'mmcv-lite'), 'mmcv': '1.7.2', **OLD},
            ['mmcv >= 2', '1.7.2'],
            f'{GET_ORIGINAL}.',
            id='mmcv 1.x',
        ),
        *(
            pytest.param(
                {**table, 'mmcls': mmcls},
                [f'mmcls {mmcls}', 'mmpretrain'],
                'pip uninstall -y mmcls.',
                id=f'mmcls {mmcls}',
            )
            for table, mmcls in (
                ({**OURS, **NEW}, '0.25.0'),
                ({**THEIRS, **OLD}, '1.0.0rc6'),
            )
        ),
    ],
)
def test_stacks_that_cannot_work(stack, table, named, remedy):
    with pytest.raises(compat.StackError) as caught:
        stack(table)()
    message = str(caught.value)
    assert message.startswith('cakd_mm cannot run: ')
    for part in named:
        assert part in message
    assert f'Remedy: {remedy}' in message


@pytest.mark.parametrize('origin', [None, 'an empty folder'])
@pytest.mark.parametrize('name', [*OURS, 'mmrazor'])
def test_files_gone_with_the_other_family(stack, monkeypatch, name, origin):
    """Uninstalling one of two families takes files of the other."""
    module = name.removeprefix('onedl-')
    find = importlib.util.find_spec
    spec = SimpleNamespace(origin=None) if origin else None
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda x: spec if x == module else find(x)
    )
    table = {**OURS, **NEW}
    remedy = f'pip install --force-reinstall --no-deps {name}=={table[name]}.'
    with pytest.raises(compat.StackError, match=f'no module {module}') as caught:
        stack(table)()
    assert remedy in str(caught.value)


@pytest.mark.parametrize('error', [RuntimeError, ImportError, OSError])
def test_torchvision_of_another_build(stack, monkeypatch, error):
    def import_module(name):
        if name == 'torchvision':
            raise error('operator torchvision::nms does not exist')

    monkeypatch.setattr(importlib, 'import_module', import_module)
    with pytest.raises(compat.StackError) as caught:
        stack({**OURS, **NEW})()
    message = str(caught.value)
    for part in ('torchvision 0.29.2', 'torch 2.15.0', 'torchvision::nms'):
        assert part in message
    assert f'pip uninstall -y torch torchvision, then {GET_CURRENT}' in message


def test_installed_reads_the_real_table():
    found = compat._installed('torch', 'no-such-distribution')
    assert list(found) == ['torch']
    assert compat._release(found['torch']) >= (2, 1)


@pytest.mark.parametrize(
    ('registry', 'scope', 'name', 'arguments'),
    [
        (MODELS, 'mmrazor', 'CAKDLogitLoss', {}),
        (MODELS, 'mmrazor', 'StrictDistiller', None),
        (MODELS, 'mmrazor', 'FrozenTeacherDistill', None),
        (CLASSIFIERS, 'mmpretrain', 'CIFARResNet', dict(depth=8)),
        (DATASETS, 'mmpretrain', 'Digits', dict(split='test', pipeline=[])),
    ],
)
def test_bare_names_in_their_scope(registry, scope, name, arguments):
    found = registry.module_dict[name]
    assert found.__module__.startswith('cakd_mm.')
    assert registry.scope == scope
    with DefaultScope.overwrite_default_scope(scope):
        assert registry.get(name) is found
        if arguments is not None:
            assert isinstance(registry.build(dict(type=name, **arguments)), found)


@pytest.mark.parametrize(
    ('inner', 'config', 'name'),
    [
        ('mmrazor', dict(type='CAKDLogitLoss'), 'CAKDLogitLoss'),
        ('mmpretrain', dict(type='CIFARResNet', depth=8), 'CIFARResNet'),
    ],
)
def test_bare_names_under_a_scope_key(inner, config, name):
    """``_scope_`` switches whatever the default scope is."""
    for outer in (MODELS, CLASSIFIERS):
        built = outer.build(dict(_scope_=inner, **config))
        assert type(built).__name__ == name
