from .strict_distiller import StrictDistiller

__all__ = ['StrictDistiller']
