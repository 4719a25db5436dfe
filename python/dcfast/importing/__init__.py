"""A pool of what people have: shards of others, folders of pictures, datasets of Hugging Face on disk.

``dcfast import DIR --out POOL``; docs/import.md. ``found`` looks at a folder, ``shards`` takes tars, ``pictures`` loose
files with captions beside them or in ``tables``, ``datasets`` Arrow and parquet with pictures in them; ``samples``
writes shards and metadata, ``account`` counts what was passed over, ``fields`` knows the usual names of columns;
``from_shards`` and ``from_files`` plan the work of each kind, ``pool`` is all of it.
"""

from __future__ import annotations

from dcfast.importing.options import ImportOptions, ImportReport
from dcfast.importing.pool import import_pool

__all__ = ["ImportOptions", "ImportReport", "import_pool"]
