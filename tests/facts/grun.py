"""The gated scope's own terms, and GRUN."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from facts import TermFact, values

# Two rows, two gated blocks: shut by ln 3 (3:1 against), half open, half open, open by ln 3.
GATES = torch.tensor([[-math.log(3), 0.0], [0.0, math.log(3)]], dtype=torch.float64)
GATED = {"answer": replace(values(-6, -2, num_tokens=(3, 1)), gates=GATES)}

TERMS = {
    # Probabilities of being open are 1/4 and 1/2, then 1/2 and 3/4; a mean over blocks, a sum over rows.
    "gate": TermFact(
        (math.log(4) + math.log(2)) / 2 + (math.log(2) + math.log(4 / 3)) / 2, "sequences", "alternate", GATED
    ),
    "gate_retain": TermFact(
        (math.log(4 / 3) + math.log(2)) / 2 + (math.log(2) + math.log(4)) / 2, "sequences", "alternate", GATED
    ),
}

PUBLISHED = {
    "grun_gd": {"ga": {}, "gate": {}, "nll": {}, "gate_retain": {}},
    "grun_idk": {"idk": {}, "gate": {}, "nll": {}, "gate_retain": {}},
    "grun_npo": {"npo": {"beta": 0.1}, "gate": {}, "nll": {}, "gate_retain": {}},
    "grun_rmu": {
        "rmu": {"steering_coeff": 300.0, "direction_seed": 0.0},
        "gate": {},
        "hidden_mse": {},
        "gate_retain": {},
    },
}

# Two blocks and one edited position carry little: no sentence that the model never said, and no second token. So what
# is said instead of an answer, and states that are steered, get help from a term that also pushes the answer down;
# tests/e2e/test_gated_runs.py shows both without help on six blocks. NPO's weight of 100 needs hundreds of steps.
WIDE = {"kind": "gated", "rank": 24}
CLAIMS = {
    "grun_gd": {"lr": 0.15, "epochs": 40},
    "grun_idk": {"lr": 0.15, "epochs": 60, "scope": WIDE, "forget_term": "0.1*dpo+idk+5*gate"},
    "grun_npo": {"lr": 0.15, "epochs": 40, "scope": WIDE, "forget_term": "0.1*npo+5*gate", "alpha": 4.0},
    "grun_rmu": {
        "lr": 0.15,
        "epochs": 40,
        "scope": WIDE,
        "forget_term": "rmu+20*ga+50*gate",
        "alpha": 8.0,
        "term": {"steering_coeff": 60.0},
    },
}
