"""The fleet's side of trust: keys, signed documents, and what the controller signs by itself.

Decision 0006 says how trust is split. Offline keys stay with people and sign root, targets and the
releases of models; online keys stay with the controller and sign snapshot, timestamp and desired
states.
"""
