"""A student as a file that needs neither mmpretrain nor this package."""

from .command import Wish, export

__all__ = ['Wish', 'export']
