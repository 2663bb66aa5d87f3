"""Triton kernels, installed as nagfast.kernels. Triton only: kernel and launcher, no I/O."""
