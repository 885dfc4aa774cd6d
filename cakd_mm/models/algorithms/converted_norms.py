"""Keeps hooks where layers are replaced by others that do the same."""

from torch import nn


class ConvertedNorms:
    """Finds layers of batch normalisation that were replaced after a net was built.

    ``sync_bn`` of a config, and the functions of mmengine and PyTorch that convert such
    layers, make new layers from the old ones, with their weights and without their
    hooks. So a recorder would record nothing any more.

    Args:
        algorithm (nn.Module): It holds all nets. Layers of those that are called
            ``teacher`` are not trained, so that a conversion of theirs is undone.
    """

    def __init__(self, algorithm: nn.Module) -> None:
        # What holds a layer, its name there, the layer, and whether it is a teacher's.
        self._layers: list[tuple[dict, str, nn.Module, bool]] = [
            (parent._modules, name, layer, path.startswith('teacher'))
            for path, parent in algorithm.named_modules()
            for name, layer in parent._modules.items()
            if layer is not None and 'running_mean' in layer._buffers
        ]

    def follow(self) -> None:
        """Give new layers the hooks of the old ones, and a teacher its own layers."""
        for index, (siblings, name, old, is_teachers) in enumerate(self._layers):
            new = siblings.get(name)
            if new is old or new is None:
                continue
            if is_teachers:
                # They may have been moved to another device since.
                old._parameters.update(new._parameters)
                old._buffers.update(new._buffers)
                siblings[name] = old
                continue
            for kind, hooks in vars(old).items():
                if 'hook' in kind and isinstance(hooks, dict):
                    # The dict itself moves, because handles remove hooks from it.
                    hooks.update(vars(new)[kind])
                    vars(new)[kind] = hooks
                elif 'hook' in kind and hooks is not None:  # of what kind they are
                    vars(new)[kind] = hooks
            self._layers[index] = (siblings, name, new, False)
