"""Every method trains with ``tools/train.py --amp``, its losses in float32."""

import contextlib
import copy

import pytest
import torch
from leaves import LEAVES
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from tiny import CONFIGS, digits_config, save_teacher

from cakd_mm.engine import launch
from cakd_mm.engine.optimizers import BF16OptimWrapper

METHODS = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.glob('*/*_r20_r8_digits.py')
)
OF_CAKD = [
    'cakd/demo_digits.py',
    'cakd/ablations/digits/digits_logit-double_activation.py',
    'cakd/ablations/digits/digits_logit-single_network.py',
]
IMAGES = 24
# bf16 has 8 bits: activations are off by some tenths of a percent, and a difference
# of two nets by more.
VALUE, GRADIENT = 0.03, 0.1


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    return str(save_teacher(tmp_path_factory.mktemp('teacher') / 'teacher.pth'))


def start(name: str, teacher: str):
    """Build a method's algorithm and the optimizer wrapper that --amp makes of it."""
    cfg = digits_config(name, model__teacher_ckpt=teacher, launcher='none')
    launch.use_amp(cfg)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch.device, 'get_device', lambda: 'cpu')
        launch.adapt_to_device(cfg)
    torch.manual_seed(0)
    model = dict(copy.deepcopy(cfg.model), data_preprocessor=cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(model)
    model.init_weights()
    for loss in model.distiller.distill_losses.values():  # as the hooks do
        if hasattr(loss, 'set_epoch'):
            loss.set_epoch(3)
        if hasattr(loss, 'set_dataset'):
            loss.set_dataset([i % 10 for i in range(200)])
            loss.indices = torch.arange(IMAGES)
    return model.train(), build_optim_wrapper(model, cfg.optim_wrapper)


def losses_of(model, context):
    """The losses of a batch that is always the same."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (IMAGES, 3, 16, 16), generator=generator)
    samples = [DataSample().set_gt_label(i % 10) for i in range(IMAGES)]
    batch = dict(inputs=images.to(torch.uint8), data_samples=samples)
    data = model.data_preprocessor(batch, True)
    torch.manual_seed(2)
    with context:
        return model(**data, mode='loss')


def gradient(model, loss):
    weight = model.student.backbone.conv1.weight
    return torch.autograd.grad(loss, weight, retain_graph=True)[0]


def test_every_method_has_a_digits_config():
    folders = {path.parent.name for path in CONFIGS.glob('*/metafile.yml')}
    folders &= {leaf.split('/')[0] for leaf in LEAVES}  # of classifiers
    assert {name.split('/')[0] for name in METHODS + OF_CAKD} == folders
    assert len(folders) >= 10


@pytest.mark.parametrize('name', METHODS + OF_CAKD)
def test_a_step_in_mixed_precision_is_that_in_float32(name, teacher):
    model, wrapper = start(name, teacher)
    plain = copy.deepcopy(model)
    assert type(wrapper) is BF16OptimWrapper
    seen = []
    model.student.head.fc.register_forward_hook(lambda *args: seen.append(args[-1]))
    expected = losses_of(plain, contextlib.nullcontext())
    found = losses_of(model, wrapper.optim_context(model))
    assert {x.dtype for x in seen} == {torch.bfloat16}  # it is mixed
    assert found.keys() == expected.keys()
    for loss in model.distiller.distill_losses:
        ours, reference = found[f'distill.{loss}'], expected[f'distill.{loss}']
        assert ours.dtype is torch.float32
        assert reference.item() > 0
        assert ours.item() == pytest.approx(reference.item(), rel=VALUE), loss
        grad, other = gradient(model, ours), gradient(plain, reference)
        assert grad.norm().item() == pytest.approx(other.norm().item(), rel=GRADIENT)
        assert torch.cosine_similarity(grad.flatten(), other.flatten(), dim=0) > 0.93
    before = copy.deepcopy(dict(model.student.named_parameters()))
    wrapper.update_params(model.parse_losses(found)[0])
    for key, parameter in model.student.named_parameters():
        assert parameter.dtype is torch.float32
        assert parameter.isfinite().all(), key
        assert not torch.equal(parameter, before[key]), key
