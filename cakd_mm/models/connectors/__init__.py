from .fusion_connector import FusionConnector
from .map_connector import MapConnector
from .pooled_connector import PooledConnector

__all__ = ['FusionConnector', 'MapConnector', 'PooledConnector']
