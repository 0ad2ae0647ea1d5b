"""Who may talk: the fleet's certificate authority, its devices' certificates, the broker's rights.

It decides nothing about what may run: that needs keys that are not here (decision 0006).
"""
