"""What a user gets who installs a wheel and has no checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from cakd_mm import __version__

ROOT = Path(__file__).resolve().parents[1]
MIM = 'cakd_mm/.mim'
EXTRAS = (
    'current',
    'original',
    'det',
    'seg',
    'brain',
    'export',
    'tests',
    'lint',
    'docs',
)
LEAF = """
_base_ = 'cakd_mm::cakd/demo_digits.py'
model = dict(architecture=dict(backbone=dict(depth=14)))
"""
# Runs with the installed wheel alone: no checkout, no openmim.
USE = """
import contextlib, io, json, runpy, sys
sys.modules['mim'] = None
import cakd_mm
from mmengine.config import Config
from mmengine.hub import get_config
from mmpretrain.apis import ModelHub
found = ModelHub.get('dkd_r56_r20_cifar100')
cfg = get_config('cakd_mm::cakd/demo_digits.py')
leaf = Config.fromfile('leaf.py')
tool = sys.argv[1]
sys.argv = [tool, '-h']
shown = io.StringIO()
try:
    with contextlib.redirect_stdout(shown):
        runpy.run_path(tool, run_name='__main__')
except SystemExit as end:
    code = end.code
try:
    runpy.run_path(tool.replace('train.py', 'reproduce.py'), run_name='__main__')
except SystemExit as end:
    refused = end.code
print('REPORT' + json.dumps(dict(
    package=cakd_mm.__file__,
    version=cakd_mm.__version__,
    config=cfg.filename,
    found=found.config.model.distiller.distill_losses.loss_dkd.beta,
    teacher=cfg.model.teacher.backbone.depth,
    loss=cfg.model.distiller.distill_losses.loss_cakd.type,
    leaf=[leaf.model.architecture.backbone.depth, leaf.model.teacher.backbone.depth],
    help=shown.getvalue(),
    code=code,
    refused=refused,
)))
"""


def run(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


def setuptools_builds_wheels():
    """Since 70.1 setuptools needs no second package for that."""
    try:
        return Version(version('setuptools')) >= Version('70.1')
    except PackageNotFoundError:
        return False


def tree_files():
    """List the files that a commit of the tree as it is would hold."""
    if not (ROOT / '.git').exists() or shutil.which('git') is None:
        pytest.skip('not a git checkout')
    listed = run('git', 'ls-files', '-co', '--exclude-standard', cwd=ROOT).splitlines()
    return [name for name in listed if (ROOT / name).is_file() or is_link(name)]


def is_link(name):
    """Whether it is one of the links of ``.mim``, to a folder perhaps."""
    return (ROOT / name).is_symlink()


@pytest.fixture
def tree(tmp_path):
    """Copy the tree without anything that is generated."""
    copy = tmp_path / 'tree'
    for name in tree_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    assert (copy / MIM / 'configs/cakd/demo_digits.py').is_file()
    return copy


def requirements(name):
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return {str(Requirement(line)) for line in lines if line and line[0] != '#'}


def check_files(names, modes):
    shipped = {
        name
        for name in tree_files()
        if name.startswith(('configs/', 'tools/')) and '/.' not in name
    }
    assert {f'{MIM}/{name}' for name in shipped} <= names
    assert f'{MIM}/model-index.yml' in names
    for script in ('dist_train', 'dist_test', 'slurm_train', 'slurm_test'):
        name = f'{MIM}/tools/{script}.sh'
        assert modes[name] & 0o111, f'{name} cannot be executed'
    assert 'cakd_mm/py.typed' in names
    modules = {
        name
        for name in tree_files()
        if name.startswith('cakd_mm/') and not is_link(name)
    }
    assert modules <= names
    tops = {name.split('/')[0] for name in names}
    assert tops == {'cakd_mm', f'cakd_mm-{__version__}.dist-info'}
    assert not [name for name in names if name.endswith('.pyc')]


def check_links(page):
    """PyPI shows the README, where a path of the repository leads nowhere."""
    for is_picture, target in re.findall(r'(!?)\[[^\[\]]*\]\(([^)]*)\)', page):
        if target.startswith('#'):
            continue
        start, version, path = target.partition(f'/v{__version__}/')
        if not version:
            assert target.startswith('https://')
            continue
        place = 'https://github.com/cakd-mm/cakd_mm'
        assert start == f'{place}/{"raw" if is_picture else "blob"}'
        assert (ROOT / path.partition('#')[0]).exists(), path
    assert f'/raw/v{__version__}/docs/pictures/' in page
    assert f'/blob/v{__version__}/docs/' in page


def check_metadata(read, names):
    info = f'cakd_mm-{__version__}.dist-info'
    metadata = Parser().parsestr(read(f'{info}/METADATA').decode())
    assert metadata['Name'].replace('-', '_') == 'cakd_mm'
    assert metadata['Version'] == __version__
    assert (metadata['License-Expression'] or metadata['License']) == 'Apache-2.0'
    assert metadata['Requires-Python'] == '>=3.10'
    assert metadata['Author'] == 'cakd_mm contributors'
    pages = dict(line.split(', ') for line in metadata.get_all('Project-URL'))
    assert pages['Changelog'].endswith('/blob/main/CHANGELOG.md')
    assert 'knowledge distillation' in metadata['Keywords']
    assert 'Typing :: Typed' in metadata.get_all('Classifier')
    check_links(metadata.get_payload())
    [licence] = [n for n in names if n.startswith(info) and n.endswith('/LICENSE')]
    assert read(licence) == (ROOT / 'LICENSE').read_bytes()
    assert b'Apache License' in read(licence)
    declared = {None: set()}
    for line in metadata.get_all('Requires-Dist'):
        requirement = Requirement(line)
        extra = None
        if requirement.marker is not None:
            [extra] = [e for e in EXTRAS if requirement.marker.evaluate({'extra': e})]
            requirement.marker = None
        declared.setdefault(extra, set()).add(str(requirement))
    assert sorted(metadata.get_all('Provides-Extra')) == sorted(EXTRAS)
    assert declared == {
        None: requirements('runtime'),
        **{extra: requirements(extra) for extra in EXTRAS},
    }
    # mmrazor needs, but does not declare, joblib and scipy.
    assert {'joblib', 'scipy>=1.12', 'mmrazor==1.0.0'} <= declared[None]


def check_use(wheel, tmp_path):
    target, elsewhere = tmp_path / 'target', tmp_path / 'elsewhere'
    pip = (sys.executable, '-m', 'pip', '--disable-pip-version-check', 'install')
    run(*pip, '--no-deps', '--no-index', '--no-compile', '--target', target, wheel)
    elsewhere.mkdir()
    (elsewhere / 'leaf.py').write_text(LEAF)
    tool = target / MIM / 'tools/train.py'
    shown = run(
        *(sys.executable, '-W', 'ignore', '-c', USE, tool),
        cwd=elsewhere,
        env={**os.environ, 'PYTHONPATH': str(target)},
    )
    report = json.loads(shown.split('REPORT')[1])
    assert Path(report['package']) == target / 'cakd_mm/__init__.py'
    assert report['version'] == __version__
    assert report['found'] == 2.0  # by name, in mmpretrain's hub
    config = Path(report['config']).resolve()
    assert config == (target / MIM / 'configs/cakd/demo_digits.py').resolve()
    assert (report['teacher'], report['loss']) == (20, 'CAKDLogitLoss')
    assert report['leaf'] == [14, 20]
    assert report['code'] == 0
    assert report['refused'].startswith('reproduce.py needs a clone')
    assert '`python tools/reproduce.py ...`' in report['refused']
    assert '--work-dir' in report['help']


def test_wheel(tree, tmp_path):
    """One build for all: its files, its metadata, and its use without a checkout."""
    isolation = ['--no-build-isolation'] if setuptools_builds_wheels() else []
    pip = (sys.executable, '-m', 'pip', '--disable-pip-version-check', 'wheel')
    run(*pip, *isolation, '--no-deps', '--wheel-dir', tmp_path, tree)
    [wheel] = tmp_path.glob('*.whl')
    assert wheel.name == f'cakd_mm-{__version__}-py3-none-any.whl'
    with zipfile.ZipFile(wheel) as archive:
        modes = {i.filename: i.external_attr >> 16 for i in archive.infolist()}
        check_files(set(modes), modes)
        check_metadata(archive.read, set(modes))
    check_use(wheel, tmp_path)


def test_source_distribution_holds_what_a_build_reads(tree, tmp_path):
    pytest.importorskip('setuptools')
    build = 'import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])'
    run(sys.executable, '-c', build, tmp_path, cwd=tree)
    [archive] = tmp_path.glob('*.tar.gz')
    with tarfile.open(archive) as opened:
        names = {name.split('/', 1)[-1] for name in opened.getnames()}
    kept = ('cakd_mm/', 'configs/', 'tools/', 'requirements/')
    needed = {n for n in tree_files() if n.startswith(kept) and not is_link(n)}
    # What is a link in the tree is a copy here, so that a wheel can be built.
    assert f'{MIM}/tools/train.py' in names
    assert needed | {'setup.py', 'pyproject.toml', 'README.md', 'LICENSE'} <= names
    assert not [x for x in names if x.startswith(('research', 'tests'))]


def test_scripts_are_executable():
    """The README's ``tools/dist_train.sh ...`` is typed as it stands."""
    scripts = sorted((ROOT / 'tools').glob('*.sh'))
    assert len(scripts) == 5
    assert all(os.access(script, os.X_OK) for script in scripts)


def test_only_pinned_families_are_named():
    """What ``check_stack`` demands is what the extras install."""
    from cakd_mm import compat

    named = {Requirement(line).name for line in requirements('current')}
    assert set(compat.CURRENT) <= named
    pins = {Requirement(line).name for line in requirements('original')}
    for names in compat.ORIGINAL:
        assert set(names) & pins
    for family, limits in compat.LIMITS.items():
        assert {*map(Requirement, limits)} <= {*map(Requirement, requirements(family))}
    runtime = {Requirement(line).name for line in requirements('runtime')}
    assert set(compat.RUNTIME) <= runtime


def test_the_citation_and_the_changelog_are_of_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == __version__
    assert citation['authors'] == [{'name': 'cakd_mm contributors'}]
    changelog = (ROOT / 'CHANGELOG.md').read_text()
    assert re.findall(r'^## (\S+)', changelog, re.MULTILINE)[0] == __version__


WORKFLOWS = sorted((ROOT / '.github/workflows').glob('*.yml'))


@pytest.mark.parametrize('file', WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_is_modest_and_calls_what_there_is(file):
    """It may read by default, its actions have a version, its commands exist."""
    assert len(WORKFLOWS) == 4
    workflow = yaml.safe_load(file.read_text())
    assert workflow['permissions'] == {'contents': 'read'}
    steps = [step for job in workflow['jobs'].values() for step in job['steps']]
    for step in steps:
        assert re.search(r'@(v\d+|release/v\d+)$', step.get('uses', '@v0'))
    commands = '\n'.join(step.get('run', '') for step in steps)
    makefile = (ROOT / 'Makefile').read_text()
    targets = set(re.search(r'^\.PHONY: (.*)', makefile, re.MULTILINE)[1].split())
    called = set(re.findall(r'\bmake ([\w-]+)', commands))
    assert called and called <= targets
    named = re.findall(r'\b(?:tests|requirements|cakd_mm)/[\w/.]+', file.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []
