"""How often an optimizer will judge a prediction, roughly: what an estimate of the rest is made from.

DSPy's optimizers do not say how far they are. Each judges predictions all along, though, and how many it
will judge follows from its settings. What is left out (bootstrapping, examples that fail) makes these
numbers too small or too large by a little; an optimizer with no entry here has no estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

Budget = Callable[[Any, Mapping[str, Any], int, int, int], int]
"""From the optimizer, what its compile is given, the sizes of trainset and valset, and how many predictors."""


def _gepa(optimizer: Any, _passed: Mapping[str, Any], train: int, val: int, predictors: int) -> int:
    from dspy.teleprompt.gepa import gepa

    if optimizer.auto is not None:
        candidates = gepa.AUTO_RUN_SETTINGS[optimizer.auto]["n"]
        return int(optimizer.auto_budget(predictors, candidates, val))
    if optimizer.max_full_evals is not None:
        return int(optimizer.max_full_evals) * (train + val)
    return int(optimizer.max_metric_calls)


def _mipro(optimizer: Any, passed: Mapping[str, Any], _train: int, val: int, predictors: int) -> int:
    from dspy.teleprompt import mipro_optimizer_v2

    trials, minibatch = passed.get("num_trials"), passed.get("minibatch", True)
    if optimizer.auto is not None:
        settings = mipro_optimizer_v2.AUTO_RUN_SETTINGS[optimizer.auto]
        val = min(val, settings["val_size"])
        minibatch = val > mipro_optimizer_v2.MIN_MINIBATCH_SIZE
        trials = int(max(4 * predictors * math.log2(settings["n"]), 1.5 * settings["n"]))
    if not minibatch:
        return (int(trials or 0) + 1) * val
    full = int(trials or 0) // int(passed.get("minibatch_full_eval_steps", 5)) + 2
    return int(trials or 0) * int(passed.get("minibatch_size", 35)) + full * val


BUDGETS: Final[Mapping[str, Budget]] = {
    "bootstrap_few_shot": lambda optimizer, _passed, train, _val, _predictors: train * optimizer.max_rounds,
    "random_search": lambda optimizer, _passed, _train, val, _predictors: (optimizer.num_candidate_sets + 3) * val,
    "copro": lambda optimizer, _passed, train, _val, predictors: (
        optimizer.breadth * optimizer.depth * train * predictors
    ),
    "infer_rules": lambda optimizer, _passed, _train, val, _predictors: optimizer.num_candidates * val,
    "simba": lambda optimizer, _passed, train, _val, _predictors: (
        optimizer.max_steps * optimizer.bsize * 2 * optimizer.num_candidates + (optimizer.num_candidates + 1) * train
    ),
    "gepa": _gepa,
    "mipro_v2": _mipro,
}
