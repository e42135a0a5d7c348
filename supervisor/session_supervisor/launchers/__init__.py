"""Ways to bring about a worker process, behind one contract (:mod:`.base`)."""
