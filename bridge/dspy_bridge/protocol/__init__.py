r"""Wire protocol: types, framing, errors; no I\/O."""
