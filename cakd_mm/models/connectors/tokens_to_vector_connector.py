"""From a transformer's tokens to one vector of the teacher's width."""

from typing import Any

from mmrazor.registry import MODELS
from torch import Tensor

from ..tokens import split_tokens
from .token_connector import TokenConnector


@MODELS.register_module()
class TokensToVectorConnector(TokenConnector):
    """Pool tokens, then bring the vector to the teacher's width by a linear layer.

    The connector is trained with the student and left behind when the student is
    extracted. On the teacher's side (``preds_T``) it has no layer.

    Args:
        in_channels (int, optional): Channels of the tokens. A config leaves the first
            three arguments out, because the nets tell them.
        out_channels (int, optional): Channels of the teacher's vector. None: no layer.
        extra_tokens (int, optional): Number of class and register tokens, which come
            before those of patches.
        pool (str): ``'mean'`` takes the mean of the patches, ``'class'`` the class
            token, which is the first, and ``'all'`` the mean of all tokens. Defaults
            to ``'mean'``.
        init_cfg (dict, optional): As in mmengine. Defaults to None.

    Raises:
        ValueError: a setting is out of range.
    """

    gives = 2
    sees_teacher = False  # A vector has no size.

    def __init__(
        self,
        in_channels: int | None = None,
        out_channels: int | None = None,
        extra_tokens: int | None = None,
        pool: str = 'mean',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, init_cfg)
        self.extra_tokens = self.checked_count('extra_tokens', extra_tokens)
        self.pool = self.checked_choice('pool', pool, ('mean', 'class', 'all'))

    def forward_train(self, feature: Tensor, teacher: Any = None) -> Tensor:
        """Map tokens (N, extra_tokens + h * w, C_in) to (N, C_out).

        Raises:
            ValueError: the feature is no tokens, has another width, or has no token
                that ``pool`` could take.
        """
        self.check_width(feature, self.in_channels, (self.dims,))
        if self.pool == 'all':
            return self.fitted(feature.mean(1))
        count = self.known('extra_tokens')
        extra, patches = split_tokens(feature, count)
        chosen = extra[:, :1] if self.pool == 'class' else patches
        if not chosen.shape[1]:
            problem = f'Of {feature.shape[1]} tokens there is none to take, because '
            problem += f'extra_tokens={count}.'
            remedy = "Write pool='all', or correct extra_tokens."
            self.refuse('pool', self.pool, problem, remedy)
        return self.fitted(chosen.mean(1))
