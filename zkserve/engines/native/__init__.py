"""Our own proof system: weights bound and hidden by commitments, proofs in a second or less.

The engine is :class:`zkserve.engines.native.engine.NativeEngine`. Nothing is imported here, so that
the child processes that prove load no more than they need. ``docs/native-protocol.md`` is what all
modules of this package implement.
"""
