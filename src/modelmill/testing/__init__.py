"""The room `testing`: what our own tests, and the tests of those who write a backend, are made of.

    memory       `MemoryBlobs` and `MemoryPointers`: the Protocols of `store` without a disk
    conformance  what every backend of a Protocol has to do, as functions that take a fresh one
    samples      small, valid values to fill a registry with

It owns nothing and may import every room but `cli`.
"""
