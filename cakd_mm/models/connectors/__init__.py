from .bottleneck_connector import BottleneckConnector
from .fusion_connector import FusionConnector
from .map_connector import MapConnector
from .map_to_tokens_connector import MapToTokensConnector
from .pooled_connector import PooledConnector
from .tokens_connector import TokensConnector
from .tokens_to_map_connector import TokensToMapConnector
from .tokens_to_vector_connector import TokensToVectorConnector

__all__ = [
    'BottleneckConnector',
    'FusionConnector',
    'MapConnector',
    'MapToTokensConnector',
    'PooledConnector',
    'TokensConnector',
    'TokensToMapConnector',
    'TokensToVectorConnector',
]
