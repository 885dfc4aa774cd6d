"""Packaging of ``cakd_mm``.

Configs, tools and the model index travel in ``cakd_mm/.mim``, where mmengine and mim
look for them. In a checkout these are links to the folders beside the package.
"""

import re
from pathlib import Path
from runpy import run_path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
REPOSITORY = 'https://github.com/cakd-mm/cakd_mm'
VERSION = run_path(str(ROOT / 'cakd_mm' / 'version.py'))['__version__']
# A block of code, and the target of a link or picture in what is none.
CODE = re.compile(r'(^```.*?^```$)', re.MULTILINE | re.DOTALL)
LINK = re.compile(r'(!\[[^\]]*\]\(|\]\(|src="|href=")(?![a-z]+:|#)([^)"\s]+)')


def requirements(name: str) -> list[str]:
    """Read ``requirements/<name>.txt``."""
    lines = (
        (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    )
    return [line for line in lines if line and not line.startswith('#')]


def with_whole_links(text: str) -> str:
    """Let links and pictures of the README lead to the repository, as PyPI needs it.

    They lead to the tag of this version, so that a page remains that of its version.
    """

    def whole(found: re.Match) -> str:
        start, path = found.groups()
        kind = 'raw' if start.startswith(('!', 'src')) else 'blob'
        return f'{start}{REPOSITORY}/{kind}/v{VERSION}/{path}'

    parts = CODE.split(text)
    parts[::2] = [LINK.sub(whole, part) for part in parts[::2]]
    return ''.join(parts)


setup(
    name='cakd_mm',
    version=VERSION,
    description='CAKD and its baselines for knowledge distillation with MMRazor',
    long_description=with_whole_links((ROOT / 'README.md').read_text(encoding='utf-8')),
    long_description_content_type='text/markdown',
    author='cakd_mm contributors',
    url=REPOSITORY,
    project_urls={
        'Documentation': f'{REPOSITORY}/tree/main/docs',
        'Changelog': f'{REPOSITORY}/blob/main/CHANGELOG.md',
        'Issues': f'{REPOSITORY}/issues',
        'Paper': 'https://arxiv.org/abs/2410.14741',
    },
    keywords='knowledge distillation, model compression, image classification, '
    'CAKD, MMRazor, OpenMMLab, PyTorch',
    # The licence is named above, because setuptools refuses it in both places.
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.10',
    packages=find_packages(include=['cakd_mm', 'cakd_mm.*']),
    package_data={
        'cakd_mm': [
            'py.typed',
            'visualization/report/page.*',
            '.mim/model-index.yml',
            '.mim/configs/**/*',
            '.mim/tools/**/*',
        ]
    },
    install_requires=requirements('runtime'),
    extras_require={
        name: requirements(name)
        for name in (
            *('current', 'original', 'export', 'tests', 'lint', 'docs'),
            *('det', 'seg', 'brain'),
        )
    },
    entry_points={'console_scripts': ['cakd-mm = cakd_mm.cli:main']},
)
