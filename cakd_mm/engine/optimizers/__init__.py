from .bf16_optim_wrapper import BF16OptimWrapper, CPUAmpOptimWrapper

__all__ = ['BF16OptimWrapper', 'CPUAmpOptimWrapper']
