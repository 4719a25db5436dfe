"""A program for type checkers alone, never run: they must refuse the lines that are marked, and no others.

The mark is ``# E:``, then mypy's code and pyright's rule.
"""

# ruff: noqa: B018

from typing import assert_type

import dcfast
import dcfast.resharding
import dcfast.run
import dcfast.world
import numpy as np
import numpy.typing as npt
import torch

x = np.ones((4, 8), np.float32)
t = torch.ones(4, 8)
uids: npt.NDArray[np.void] = np.zeros(3, "u8,u8")
rows = [0, 1]

# names that there are not
dcfast.topkk  # E: attr-defined | reportAttributeAccessIssue
dcfast.errors.PoolEror  # E: attr-defined | reportAttributeAccessIssue
dcfast.resharding.make_plans  # E: attr-defined | reportAttributeAccessIssue
dcfast.world.render_words  # E: attr-defined | reportAttributeAccessIssue
dcfast.Database(x).sizes  # E: attr-defined | reportAttributeAccessIssue

# keywords that there are not, old ones among them
dcfast.topk(x, x, 2, metrics="cos")  # E: call-overload | reportCallIssue
dcfast.uid_sort(uids, thread=2)  # E: call-arg | reportCallIssue
dcfast.open_pool("index", "pool", maximum_open=3)  # E: call-arg | reportCallIssue
dcfast.PoolDataset("index", extension="jpg")  # E: call-overload | reportCallIssue
dcfast.run.index("out", worker=2)  # E: call-arg | reportCallIssue
dcfast.load_model("ViT-B-32", pretraind="openai")  # E: call-arg | reportCallIssue
dcfast.reshard("pool", "out", "subset.npy", shards_size=3)  # E: call-arg | reportCallIssue
dcfast.iterate_uids(dcfast.open_pool("index"), uids, missing_uids="skip")  # E: call-arg | reportCallIssue

# values of another type
dcfast.topk(x, x, "2")  # E: call-overload | reportArgumentType
dcfast.join(x, x, 0.5, metric="cosine")  # E: call-overload | reportArgumentType
dcfast.uid_parse(["0"], errors="ignore")  # E: arg-type | reportArgumentType
dcfast.hamming_join([1], None, "3")  # E: arg-type | reportArgumentType
dcfast.iterate_uids(dcfast.open_pool("index"), uids, missing="error")  # E: arg-type | reportArgumentType
dcfast.refresh_index(3, "pool")  # E: arg-type | reportArgumentType

# results by what was given
names: list[str] = dcfast.uid_format(uids, as_list=True)
numbers: list[int] = dcfast.uid_format(uids, as_list=True)  # E: assignment | reportAssignmentType
assert_type(dcfast.PoolDataset("index")[0].members, dict[str, bytes])
assert_type(dcfast.PoolDataset("index", transform=len)[0], int)
assert_type(next(iter(dcfast.PoolIterableDataset("index"))).members, dict[str, bytes])
assert_type(dcfast.topk(x, x, 2).scores, npt.NDArray[np.float32])
assert_type(dcfast.topk(t, x, 2).indices, torch.Tensor)
assert_type(dcfast.assign(x, t).indices, npt.NDArray[np.int64])
assert_type(dcfast.row_max(t, x), torch.Tensor)
assert_type(dcfast.any_above(x, x, 0.5), npt.NDArray[np.bool_])
assert_type(dcfast.join(t, t, 0.5).ia, torch.Tensor)
assert_type(dcfast.group_join(x, [0, 4], 0.5).scores, npt.NDArray[np.float32])
assert_type(dcfast.read_members(dcfast.index_tars("a.tar"), rows, "jpg")[0], memoryview)
assert_type(dcfast.read_members(dcfast.index_tars("a.tar"), rows)[0], dict[str, memoryview])
assert_type(dcfast.ClipLoss()(t, t, 1.0), torch.Tensor)
assert_type(dcfast.SigLipLoss()(t, t, 1.0, 0.0, output_dict=True), dict[str, torch.Tensor])
assert_type(dcfast.perceptual_hash(b"").hash, int)
assert_type(dcfast.perceptual_hash([b""]).hash, npt.NDArray[np.uint64])
