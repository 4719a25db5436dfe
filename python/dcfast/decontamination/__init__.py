"""Pool pictures that are evaluation pictures, found with evidence: for the stage of a run, and as a program of its own.

``dcfast decontaminate POOL --against SIGNATURES... --out DIR`` (``command``) needs no run: ``signing`` hashes and
describes the pool's pictures, ``published`` compares the descriptors that DataComp published, ``matching`` finds the
hits; docs/decontaminate.md.
"""
