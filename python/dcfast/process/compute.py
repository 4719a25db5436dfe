"""With how many threads, and on which device, an operation works: what its caller says, checked.

Importing this module imports next to nothing: a short reshard is over before more would have been imported.
"""

from __future__ import annotations

from dcfast.process.renamed import warn_of_old_form

TYPE_CHECKING = False
if TYPE_CHECKING:
    import torch

MAX_THREADS = 4096


def thread_count(threads: object, name: str = "threads") -> int:
    """A number of threads as the core takes it, 0 for one per core: that of None. ``name``: the argument's.

    0 is an old form of None, which goes on for a release with a DeprecationWarning: docs/versions.md.

    Raises:
        ValueError: neither None nor a whole number from 1 to ``MAX_THREADS``.
    """
    if threads is None:
        return 0
    # what operator.index takes, NumPy's integers among them
    whole = hasattr(threads, "__index__") and type(threads).__name__ not in ("bool", "bool_")
    count = int(threads.__index__()) if whole else -1  # type: ignore[attr-defined]
    if count == 0:
        warn_of_old_form(f"{name}=0 is {name}=None now: all cores")
        return 0
    if not 1 <= count <= MAX_THREADS:
        raise ValueError(
            f"{name} must be None or a whole number from 1 to {MAX_THREADS}; got {threads!r}: pass None for all cores"
        )
    return count


def device_name(device: str | torch.device) -> str:
    """The name of a device, as torch writes it; ``cpu`` has no number.

    Raises:
        TypeError: neither text nor a torch.device.   ValueError: torch knows no such device.
    """
    kind = type(device)
    if not isinstance(device, str) and (kind.__module__, kind.__name__) != ("torch", "device"):
        raise TypeError(f"device must be a name such as 'cpu' or 'cuda', or a torch.device; got {device!r}: pass one")
    name = str(device)
    family, colon, number = name.partition(":")
    if family not in ("cpu", "cuda") or (colon and not number.isdecimal()):
        import torch

        try:
            torch.device(name)
        except RuntimeError:
            raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N'; got {name!r}: use one of these") from None
    return "cpu" if family == "cpu" else name
