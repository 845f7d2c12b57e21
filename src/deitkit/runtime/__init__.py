"""The machine: durable writes, strict reads, the run's lock, signals, devices, ranks.

Only `device.py`, and `world.py` with its `watch.py` and `rendezvous.py`, import torch, so a wrong
output folder is told before torch loads.
"""
