"""Measure the GPUs at hand and write down what their kernels reach, as a GPU spec.

`cases` says what to measure, `timer` what a device must do, `torch_timer` does it, `timings` keeps
what was measured, `forms` and `fitting` turn it into the constants of `autopar.specs.kernels`.
"""
