_base_ = ['../default_runtime.py', '../datasets/in1k.py', '../schedules/in1k.py']
