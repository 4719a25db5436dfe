"""Files: whole or absent (``atomic``), temporary folders (``temporary``), locks (``lock``), paths that users give
(``paths``), npy and npz (``npz``), text lines (``lines``), hashes (``hashing``), URLs (``remote``, ``http``).
"""
