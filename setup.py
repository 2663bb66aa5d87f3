# SPDX-License-Identifier: Apache-2.0
"""Build nagfast._C: a portable baseline plus files for single instruction sets, chosen at run time."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext

X86 = platform.machine().lower() in {"x86_64", "amd64"} and os.name == "posix"

# GCC 12 takes its own AVX-512 headers for uses of uninitialised values.
GCC_12_NOISE = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
AVX512_FLAGS = ["-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", *GCC_12_NOISE]
# A file named <op>_<isa>.cpp gets these on top of the baseline flags, and no other file does.
ISA_FLAGS = {
    "_avx2.cpp": ["-mavx2", "-mfma"],
    "_avx512.cpp": AVX512_FLAGS,
    "_vp2intersect.cpp": [*AVX512_FLAGS, "-mavx512vp2intersect"],
}
# No contraction: a * b + c is fused only where the source says so, which keeps instruction sets equal to the bit.
BASELINE_FLAGS = ["-O3", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra"]


def isa_flags(source: str) -> list[str]:
    """Return the extra compiler flags of one source file."""
    return next((flags for suffix, flags in ISA_FLAGS.items() if source.endswith(suffix)), [])


def sources() -> list[str]:
    """Return the C++ files of this platform, relative to the project."""
    every = sorted(str(path) for path in Path("csrc").glob("*.cpp"))
    return [source for source in every if X86 or not source.endswith(tuple(ISA_FLAGS))]


class BuildExtension(build_ext):
    """build_ext with flags per source file, which setuptools lacks."""

    def build_extensions(self) -> None:
        """Compile and link, adding isa_flags to the files that have some."""
        compile_one = self.compiler._compile

        def compile_with_isa(obj: str, src: str, ext: str, cc_args: Any, extra_postargs: Any, *rest: Any) -> None:
            compile_one(obj, src, ext, cc_args, [*extra_postargs, *isa_flags(src)], *rest)

        if X86:
            self.compiler._compile = compile_with_isa
        super().build_extensions()


ParallelCompile("NAGFAST_BUILD_JOBS", default=0).install()
setup(
    packages=[*find_packages(include=["nagfast", "nagfast.*"]), "nagfast.kernels", "nagfast.benchmarks"],
    package_dir={"nagfast.kernels": "kernels", "nagfast.benchmarks": "benchmarks"},
    ext_modules=[
        Pybind11Extension(
            "nagfast._C",
            sources(),
            depends=sorted(str(path) for path in Path("csrc").glob("*.h")),
            include_dirs=["csrc"],
            define_macros=[("NAGFAST_X86", "1")] if X86 else [],
            extra_compile_args=BASELINE_FLAGS if os.name == "posix" else ["/O2"],
            extra_link_args=["-pthread"] if os.name == "posix" else [],
            cxx_std=17,
        )
    ],
    cmdclass={"build_ext": BuildExtension},
)
