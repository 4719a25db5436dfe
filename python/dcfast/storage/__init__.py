"""Files: whole or absent (``whole``, ``atomic``), temporary folders (``temporary``), locks (``lock``), paths that users
give (``paths``), files that somebody names (``inputs``), npy and npz (``npz``), maps (``mapped``), text (``lines``),
JSON (``json_files``), hashes (``hashing``), URLs (``remote``, ``http``), and what leaves the machine (``published``).
"""
