"""Packaging of ``cakd_mm``; configs, tools and the model index travel in ``.mim``."""

from pathlib import Path
from runpy import run_path

from setuptools import find_packages, setup
from setuptools.command.egg_info import egg_info

ROOT = Path(__file__).resolve().parent
LINKS = {
    'configs': 'configs',
    'tools': 'tools',
    'model-index.yml': 'configs/model-index.yml',
}


class LinkMim(egg_info):
    """Fill ``cakd_mm/.mim``, where mmengine and openmim look for configs.

    ``egg_info`` is the one command that every kind of install runs: editable,
    wheel and source distribution.
    """

    def run(self):
        """Make the links, then collect the files as usual."""
        mim = ROOT / 'cakd_mm' / '.mim'
        mim.mkdir(exist_ok=True)
        for name, source in LINKS.items():
            if not (mim / name).exists():
                (mim / name).unlink(missing_ok=True)
                (mim / name).symlink_to(Path('..', '..', source))
        super().run()


def requirements(name: str) -> list[str]:
    """Read ``requirements/<name>.txt``."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


setup(
    name='cakd_mm',
    version=run_path(str(ROOT / 'cakd_mm' / 'version.py'))['__version__'],
    description='CAKD and its baselines for knowledge distillation with MMRazor',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.10',
    packages=find_packages(include=['cakd_mm', 'cakd_mm.*']),
    package_data={
        'cakd_mm': [
            '.mim/model-index.yml',
            '.mim/configs/**/*',
            '.mim/tools/**/*',
            'ops/csrc/*.cpp',
        ]
    },
    install_requires=requirements('runtime'),
    extras_require={
        name: requirements(name) for name in ('current', 'original', 'tests', 'lint')
    },
    cmdclass={'egg_info': LinkMim},
)
