from .map_connector import MapConnector
from .pooled_connector import PooledConnector

__all__ = ['MapConnector', 'PooledConnector']
