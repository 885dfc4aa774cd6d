"""The configs of student and teacher, wherever they are written."""

import copy
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.config.utils import ConfigParsingError
from mmengine.hub import get_config
from mmengine.registry import MODELS

from .errors import describe, nearest, start_of


def read_named(name: str, key: str) -> Config:
    """Read a config by path, or by name from an installed package.

    Args:
        name (str): The path of a file, or ``package::path``.
        key (str): What the name was given for, for the error.

    Raises:
        FileNotFoundError: there is no such file, package or config.
        ImportError: a module of its ``custom_imports`` cannot be imported.
        ValueError: the file is no config, or has bases that it cannot have.
    """
    path = Path(name).expanduser()
    if '::' not in str(name) or path.is_file():
        if not path.is_file():
            problem = f'No such file (looked from {Path.cwd()}).'
            remedy = 'Write the path of a config, or cakd_mm::cakd/<name>.py.'
            raise FileNotFoundError(describe(key, name, problem, remedy))
        try:
            return Config.fromfile(path)
        except ConfigParsingError as error:
            problem = f'mmengine cannot read it: {start_of(error, 200)}.'
            remedy = 'With `_base_`, write it above the imports; a config with '
            remedy += 'read_base() has no `_base_`, and no config of cakd_mm as a base.'
            raise ValueError(describe(key, name, problem, remedy)) from error
        except SyntaxError as error:
            problem = f'It, or a base of it, is no Python: {error.msg}.'
            place = (error.text or '').strip()
            remedy = f'Correct line {error.lineno}, {place!r}.'
            raise ValueError(describe(key, name, problem, remedy)) from error
        except ImportError as error:
            if not str(error).startswith('Failed to import custom modules'):
                raise
            first: BaseException = error
            while earlier := first.__cause__ or first.__context__:
                first = earlier
            text = start_of(first, 200)
            problem = f'A module of its custom_imports cannot be imported: {text}.'
            remedy = 'Correct custom_imports, install what is missing, or name the '
            remedy += "module's folder in PYTHONPATH."
            raise ImportError(describe(key, name, problem, remedy)) from error
        except OSError as error:  # mmengine's, of a file that is no config
            problem = f'It cannot be read as a config: {error}.'
            raise ValueError(
                describe(key, name, problem, 'Name a .py file.')
            ) from error
    try:
        return get_config(name)
    except (AssertionError, OSError, ModuleNotFoundError, ValueError) as error:
        problem = f'It cannot be read: {start_of(error, 200)}.'
        remedy = 'Write cakd_mm::cakd/<name>.py, or the path of a file.'
        like = _names_like(name)
        if like:
            remedy = f'Like it: {like}.'
        raise FileNotFoundError(describe(key, name, problem, remedy)) from error


def _names_like(name: str) -> str:
    """Return the names of a package's configs that are most like one."""
    package, _, path = name.partition('::')
    spec = find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return ''
    configs = Path(spec.origin).parent / '.mim' / 'configs'
    names = [x.relative_to(configs).as_posix() for x in configs.rglob('*.py')]
    return nearest(name, [f'{package}::{x}' for x in names]) if names else ''


def net_config(net: dict, key: str, read: tuple[str, ...] = ()) -> ConfigDict:
    """Return the config of a net, whole, whatever part of it is in another file.

    A net may be ``dict(cfg_path=...)``, the name or path of a config whose ``model`` it
    is; of a distillation's config it is the student. A relative path starts at the
    folder of the file that says it (which ``Config.fromfile`` makes absolute), or at
    the current one. Whatever is written beside ``cfg_path`` is merged into it, as into
    a base::

        architecture=dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py',
                          head=dict(num_classes=5))

    ``pretrained=True`` beside it begins with the weights that the config is published
    with. Any other value but False is an argument of the net.

    Args:
        net (dict): ``model.architecture`` or ``model.teacher``.
        key (str): Which of them, for the error.
        read (tuple[str]): The configs that led here. Defaults to none.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: it describes no model, a ``type`` stands beside ``cfg_path``, what
            stands there cannot be merged, or the configs lead in a circle.
    """
    own = ConfigDict(copy.deepcopy(net))
    if 'cfg_path' not in own:
        # Its parts are those of the project that its type names.
        scope, dot, _ = str(own.get('type')).partition('.')
        if dot and scope in MODELS.root.children:
            own.setdefault('_scope_', scope)
        return own
    name, place = own.pop('cfg_path'), f'{key}.cfg_path'
    own.pop('_delete_', None)  # it was meant for a base that had no such net
    if name in read:
        problem = f'It leads back to itself: {" -> ".join((*read, name))}.'
        raise ValueError(describe(place, name, problem, 'Name the config of a net.'))
    if own.get('type') is not None:
        problem = f'Beside it stands type={own.type!r}, the net of a base, perhaps.'
        remedy = (
            f'Write {key}=dict(_delete_=True, cfg_path={name!r}) to replace that net.'
        )
        raise ValueError(describe(place, name, problem, remedy))
    # Nets of mmseg have an argument of that name, a file or None.
    is_asked = isinstance(own.get('pretrained'), bool) and own.pop('pretrained')
    file = read_named(name, place)
    model = file.get('model') or {}
    inner = model.get('architecture')
    if inner is not None:
        whole = net_config(inner, f'{key} -> model.architecture', (*read, name))
    elif model.get('type') is not None:
        whole = ConfigDict(copy.deepcopy(model))
    else:
        problem = 'It describes no model.'
        raise ValueError(describe(place, name, problem, 'Name the config of a net.'))
    preprocessor = file.get('data_preprocessor') or model.get('data_preprocessor')
    if preprocessor is not None:
        whole.data_preprocessor = copy.deepcopy(preprocessor)
    whole.setdefault('_scope_', file.get('default_scope', 'mmpretrain'))
    if is_asked:
        whole.init_cfg = dict(type='Pretrained', checkpoint=_weights(name, place))
    if not own:
        return whole
    merged = Config(dict(net=whole))
    try:
        merged.merge_from_dict(dict(net=own))
    except TypeError as error:
        problem = f'It does not fit what {name} has there ({error}).'
        remedy = 'Write _delete_=True into the part that replaces it.'
        raise ValueError(describe(key, own.to_dict(), problem, remedy)) from error
    return merged.net


def _weights(name: str, place: str) -> str:
    """Return where the weights are that a config is published with."""
    path = None
    if '::' in name:
        path = get_config(name, pretrained=True).get('model_path')
    if path is None:
        problem = 'It is asked for with pretrained=True, and names no weights.'
        remedy = 'Write model.student_ckpt or model.teacher_ckpt instead.'
        raise ValueError(describe(place, name, problem, remedy))
    return path
