"""The attacker's side of the pipe: what runs in a process of its own.

Nothing here imports the memory engine, the machine or a victim; everything that an attack learns came over the pipe.
"""
