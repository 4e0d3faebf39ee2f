"""Operators with two implementations: plain PyTorch, and a Triton kernel for CUDA.

The plain one is the definition. ``choice`` alone decides which of them runs.
"""
