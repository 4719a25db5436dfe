"""The index of a pool: which sample lies where.

``pool`` lists a pool's files, ``build`` indexes shards, ``segments`` opens what was built, ``rows`` says what a row is,
``pool_index`` finds the rows of a uid, ``refresh`` brings an index up to date.
"""
