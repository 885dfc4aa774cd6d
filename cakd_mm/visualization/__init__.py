"""Pictures of what went on inside a distillation run; needs matplotlib and scipy."""
