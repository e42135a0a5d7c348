"""Measures the bridge against its peers: ``make bench``. Ratios within one run are what counts."""
