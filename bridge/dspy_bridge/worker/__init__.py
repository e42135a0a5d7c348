"""What runs in a session's interpreter. Only this package of the bridge imports DSPy.

Two variables must be set before DSPy is imported anywhere, however the interpreter was started.
"""

import os

# Without it DSPy and litellm both look up prices over the network, DSPy at a process's first model call.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
# Numeric libraries start as many threads as there are cores, in each of many interpreters. They read these
# when they are imported; a session's own env comes later and wins.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# DSPy's default cache lives on disk and crosses sessions: its key ignores endpoint and key. A folder that
# cannot be made leaves any cache nobody configured in memory.
os.environ["DSPY_CACHEDIR"] = "/dev/null/dspy-bridge-keeps-no-disk-cache"
