"""``python -m benchmarks.gpu``: the same for one GPU, on random weights of the shapes of Llama 3.

Nothing is downloaded. The sides are those of :mod:`benchmarks.run`; memory is what torch allocated on the device. The
results file is one of its own, for shares are of the GPU's matrix rate there.
"""

from __future__ import annotations

import sys

from benchmarks.run import main


def run() -> int:
    """2, with one line, where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        print("benchmarks.gpu needs a CUDA GPU, and torch finds none; use benchmarks.run on a CPU", file=sys.stderr)
        return 2
    return main(["--out", "benchmark-results/gpu.json", *sys.argv[1:]], gpu=True)


if __name__ == "__main__":
    sys.exit(run())
