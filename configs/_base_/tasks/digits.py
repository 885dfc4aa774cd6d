_base_ = ['../default_runtime.py', '../datasets/digits.py', '../schedules/digits.py']
