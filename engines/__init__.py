"""Bundles, the backends that run them, and what is measured of them."""
