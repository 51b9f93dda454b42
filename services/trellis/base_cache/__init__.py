"""Base models in a folder that many processes read: fetched once, whole, checked, and used without a network.

`cache` is the reading side, which every process has; `fetch` fills it, and `python -m trellis.base_cache` runs that.
"""
