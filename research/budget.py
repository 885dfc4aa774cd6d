"""A recipe at another length, and how fast it is run."""

from mmengine.config import Config

from cakd_mm.engine.launch.speeds import (
    BF16_TEACHER,
    FAST_TEACHER,
    PARTS,
    RESIDENT_TRAIN,
    RESIDENT_VAL,
    SPEEDS,
    parts_of,
)
from cakd_mm.utils.errors import describe
from cakd_mm.utils.type_names import class_name

SCORED = 5  # so many last epochs show whether training has levelled off
IN1K = 'in1k'


def speed_options(speed: str, data: str, distils: bool, fits: bool = True) -> list[str]:
    """Return the options of a setting of docs/guides/speed.md.

    Args:
        speed (str): One of ``SPEEDS``.
        data (str): The data set's name in the configs; ImageNet is not made resident.
        distils (bool): Whether there is a teacher.
        fits (bool): Whether the training set can be kept in memory, which one with
            two views of each image cannot. Defaults to True.

    Raises:
        ValueError: there is no such setting.
    """
    if speed not in SPEEDS:
        problem = 'There is no such setting.'
        raise ValueError(
            describe('--speed', speed, problem, f'Write one of {[*SPEEDS]}.')
        )
    left_out = set[str]()
    if data == IN1K:
        left_out |= {RESIDENT_TRAIN, RESIDENT_VAL}
    if not fits:
        left_out.add(RESIDENT_TRAIN)
    if not distils:
        left_out |= {FAST_TEACHER, BF16_TEACHER}
    return [
        f'{key}={value}'
        for part in parts_of(speed)
        if part not in left_out
        for key, value in PARTS[part].items()
    ]


def length_options(cfg: Config, epochs: int, data: str) -> list[str]:
    """Return the options that make a recipe ``epochs`` long.

    Milestones, warm-up and a loss's own schedule keep their share of the epochs. The
    last five epochs are scored, and six more; two checkpoints are kept, one written
    every fiftieth of the epochs (Digits, whose epochs take a second: every tenth).

    Args:
        cfg (Config): The recipe.
        epochs (int): How long.
        data (str): The data set's name in the configs.

    Raises:
        ValueError: no epochs, or the schedule is not one ``MultiStepLR``.
    """
    if epochs < 1:
        problem = 'Training takes at least one.'
        raise ValueError(describe('--epochs', epochs, problem, 'Write 30, say.'))
    full = cfg.train_cfg.max_epochs
    interval = max(1, epochs // 6)
    options = [
        'train_cfg.val_begin=1',
        f'train_cfg.val_interval={interval}',
        f'train_cfg.dynamic_intervals=[({max(1, epochs - SCORED + 1)},1)]',
        'default_hooks.checkpoint.max_keep_ckpts=2',
    ]
    # ImageNet keeps its checkpoint of every epoch, because an epoch takes long.
    if data != IN1K:
        written = 10 if data == 'digits' else 50
        options.append(f'default_hooks.checkpoint.interval={max(1, epochs // written)}')
    if epochs == full:
        return options
    scheduler = cfg.param_scheduler
    if isinstance(scheduler, list) or class_name(scheduler.type) != 'MultiStepLR':
        problem = 'Only a single MultiStepLR is scaled to other epochs.'
        raise ValueError(
            describe('param_scheduler', scheduler, problem, 'Leave out --epochs.')
        )
    # Milestones may fall on the same epoch. The rate then decays once for each of them.
    milestones = [max(1, round(m * epochs / full)) for m in scheduler.milestones]
    options.append(f'train_cfg.max_epochs={epochs}')
    options.append(f'param_scheduler.milestones=[{",".join(map(str, milestones))}]')
    for key, length in _other_schedules(cfg).items():
        options.append(f'{key}={max(1, round(length * epochs / full))}')
    return options


def _other_schedules(cfg: Config) -> dict[str, int]:
    """Return the other settings that count epochs: warm-up and CTKD's curriculum."""
    found = {}
    warmup = cfg.default_hooks.get('warmup')
    if warmup:
        found['default_hooks.warmup.epochs'] = warmup.epochs
    losses = cfg.model.get('distiller', {}).get('distill_losses', {})
    for name, loss in losses.items():
        if 'epochs' in loss:
            key = f'model.distiller.distill_losses.{name}.epochs'
            found[key] = loss.epochs
    return found
