"""An evaluation task: how ``wds_shapes_test`` of an evaluation sets' directory is scored."""

from __future__ import annotations

from dcfast.evaluate import EvalTask

SHAPES = EvalTask(
    key="example/shapes",
    name="Shapes",
    directory="wds_shapes_test",
    kind="classification",
    main_metric="mean_per_class_recall",
)
