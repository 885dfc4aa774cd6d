from .batch_preprocessor import BatchPreprocessor

__all__ = ['BatchPreprocessor']
