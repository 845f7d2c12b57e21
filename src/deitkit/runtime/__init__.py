"""The machine: durable writes, strict reads, the run's lock, signals, devices, ranks.

Only `world.py` and `device.py` import torch, so a wrong output folder is told before torch loads.
"""
