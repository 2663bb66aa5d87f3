"""The benchmark harness of nagfast: `nagfast bench NAME`, the same as `python -m nagfast.benchmarks NAME`."""
