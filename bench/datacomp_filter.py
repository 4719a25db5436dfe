"""DataComp's ``baselines.py`` with the files that it would download, and without a GPU. Run by its own interpreter:

DATACOMP=CHECKOUT DATACOMP_ASSETS=DIR python datacomp_filter.py --name no_filter ...

Its workers are spawned and import this file, so that they have the same. Nothing of its own work is changed.
"""

import os
import sys

CHECKOUT, ASSETS = os.environ["DATACOMP"], os.environ["DATACOMP_ASSETS"]
sys.path.insert(0, CHECKOUT)

import torch  # noqa: E402  (baselines.py does so, too)
from baselines import utils  # noqa: E402

_NAMES = {"fasttext": "lid.176.bin"}
_to, _load = torch.Tensor.to, torch.load


def _given(name, root=None):
    return os.path.join(ASSETS, _NAMES.get(name, name + ".pt"))


def _stays(tensor, *args, **kwargs):
    if args and isinstance(args[0], str) and args[0].startswith("cuda"):
        args = ("cpu", *args[1:])
    return _to(tensor, *args, **kwargs)


def _trusting(*args, **kwargs):
    return _load(*args, **{"weights_only": False, **kwargs})  # the default of the torch that DataComp pins


utils.download = _given
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.Tensor.to = _stays
torch.load = _trusting

if __name__ == "__main__":
    path = os.path.join(CHECKOUT, "baselines.py")
    with open(path) as file:
        exec(compile(file.read(), path, "exec"))
