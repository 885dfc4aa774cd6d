"""The command line that draws a distillation run."""

import shutil

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from mmengine.config import Config
from tiny import CONFIGS, build
from tiny_runs import METRIC, feature_config, log_terms, steps, write_log
from tools_inside import run_tool

from cakd_mm.visualization import terms

# A transformer has no map to draw; what its classifier reads is a vector.
VECTOR = """
model.update(teacher_ckpt=None, allow_random_teacher=True)
val_dataloader = dict(dataset=dict(indices=64))
_base_.distiller.connectors.feature.update(in_channels=64, out_channels=64)
_base_.distiller.teacher_recorders = dict(
    logits=dict(type='ModuleOutputs', source='head'),
    feature=dict(type='ModuleInputs', source='head.layers.head'))
_base_.distiller.distill_losses.loss_feature.update(
    scorer=dict(type='ActivationScorer'), standardize=False)
for _name in ('head_weight', 'head_bias'):
    _base_.distiller.loss_forward_mappings.loss_feature.pop(_name)
"""


@pytest.fixture
def draw(monkeypatch, capsys):
    """Run the tool and return what it printed."""

    def run(*arguments):
        run_tool(monkeypatch, 'analysis_tools/plot_cakd.py', *arguments)
        return capsys.readouterr().out

    return run


def size(path):
    """Return the (height, width) of a picture that is not of one colour."""
    assert path.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'
    pixels = imread(path)
    assert pixels[..., :3].std() > 0.02
    return pixels.shape[:2]


def test_all_pictures_of_a_trained_run(draw, trained, tmp_path):
    out = tmp_path / 'out'
    arguments = ('--out', out, '--images', 3, 69, '--channels', 4)
    printed = draw(trained, *arguments, '--loss', 'feature')
    names = ('terms.png', 'clusters.png', 'images.png')
    assert [name for name in names if f'out/{name}' in printed] == list(names)
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    sizes = {name: size(out / name) for name in names}
    assert sizes['terms.png'][0] > 1000 and sizes['terms.png'][1] > 1500
    assert all(300 < side < 2500 for pair in sizes.values() for side in pair)
    assert not list(trained.glob('*.png'))


def test_a_run_without_feature_loss_has_terms_only(draw, tmp_path):
    logged = dict(bcd=(3, 2), scd=(0, 0), wcd=(1, 2), strong_mass=(0.7, 0.8))
    write_log(tmp_path, log_terms('cakd', **logged))
    printed = draw(tmp_path)
    assert 'no clusters.png and images.png' in printed
    assert [path.name for path in tmp_path.glob('*.png')] == ['terms.png']
    height, width = size(tmp_path / 'terms.png')
    assert height < width


def test_a_teacher_without_maps(draw, tmp_path):
    config = feature_config(tmp_path, VECTOR, 'vit-tiny_r8_digits')
    write_log(tmp_path / 'run', steps([1.0, 1.0]), config=config)
    cfg = Config.fromfile(config)
    model = build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'iter_5.pth')
    arguments = ('--checkpoint', tmp_path / 'iter_5.pth', '--images', 1, 2)
    printed = draw(tmp_path / 'run', *arguments)
    assert 'images.png is without maps' in printed
    assert size(tmp_path / 'run/images.png')[0] > 200
    assert size(tmp_path / 'run/clusters.png')[0] > 200


@pytest.mark.parametrize(
    ('arguments', 'error', 'key', 'remedy'),
    [
        (['--loss', 'third'], ValueError, '--loss', 'Write --loss loss_feature'),
        (['--images', 0, 70], IndexError, '--images', 'Write 0 to 69'),
        (['--channels', 65], ValueError, '--channels', 'has 64 channels'),
        (['--checkpoint', 'no.pth'], FileNotFoundError, '--checkpoint', 'Give an'),
    ],
)
def test_wrong_arguments(
    draw, monkeypatch, trained, tmp_path, arguments, error, key, remedy
):
    monkeypatch.setattr(terms, 'draw_terms', lambda *_: Figure())
    with pytest.raises(error) as caught:
        draw(trained, '--out', tmp_path, *arguments)
    assert f'`{key}` = ' in str(caught.value)
    assert remedy in str(caught.value)


def test_no_checkpoint(draw, trained, tmp_path):
    [log] = trained.glob('*/vis_data')
    shutil.copytree(log, tmp_path / log.parent.name / 'vis_data')
    with pytest.raises(FileNotFoundError, match='epoch_.*--checkpoint'):
        draw(tmp_path)
    assert (tmp_path / 'terms.png').is_file()


def test_a_run_without_distillation(draw, tmp_path):
    vanilla = CONFIGS / 'vanilla/resnet8_digits.py'
    write_log(tmp_path, steps([1.0, 1.0]), config=vanilla)
    with pytest.raises(ValueError, match='without distillation.*configs/cakd'):
        draw(tmp_path)


def finished(work_dir, config, score):
    """Leave what a run leaves that has scored its last two epochs."""
    end = Config.fromfile(config).train_cfg.max_epochs
    lines = [{METRIC: score, 'step': epoch} for epoch in (end - 1, end)]
    write_log(work_dir, steps([1.0, 1.0]) + lines, config=config)


@pytest.fixture
def runs(tmp_path):
    """A folder of a distillation run and of a plain student."""
    finished(tmp_path / 'runs/demo', CONFIGS / 'cakd/demo_digits.py', 98.0)
    finished(tmp_path / 'runs/plain', CONFIGS / 'vanilla/resnet8_digits.py', 97.0)
    return tmp_path / 'runs'


def test_a_folder_of_runs(draw, runs):
    printed = draw(runs)
    assert size(runs / 'sweep.png')[1] > 1000
    table = (runs / 'sweep.md').read_text(encoding='utf-8')
    assert table.strip() in printed
    assert '| demo |' in table and '| 98.00 |' in table
    assert '| plain |' in table and '| 97.00 |' in table


def test_several_runs_go_to_the_current_folder(draw, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ['sweep.md', 'sweep.png']
    for out, more in ((tmp_path, ()), (tmp_path / 'a/b', ('--out', tmp_path / 'a/b'))):
        draw(runs / 'demo', runs / 'plain', *more)
        assert sorted(path.name for path in out.glob('*.*')) == names


@pytest.mark.parametrize(
    ('option', 'value'),
    [('--images', 0), ('--checkpoint', 'a.pth'), ('--loss', 'x'), ('--channels', 0)],
)
def test_options_of_one_run_are_refused_with_several(draw, runs, option, value):
    with pytest.raises(ValueError, match=f'`{option}` = .*one work dir') as caught:
        draw(runs, option, value)
    assert str(runs / 'demo') in str(caught.value)
    assert not list(runs.glob('sweep.*'))


def test_nothing_logged(draw, tmp_path):
    with pytest.raises(FileNotFoundError, match='scalars.json.*tools/train.py'):
        draw(tmp_path)
