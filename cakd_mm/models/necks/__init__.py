from .norm_neck import NORMNeck

__all__ = ['NORMNeck']
