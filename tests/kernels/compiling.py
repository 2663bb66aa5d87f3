"""Compile a kernel for a GPU that need not be there, and read from the binary what it takes."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

TARGET = 90  # H100, H200


@dataclass(frozen=True)
class Compiled:
    """What one variant of a kernel takes."""

    registers: int
    """Of a thread."""
    stack: int
    """Bytes of local memory of a thread: spilled registers, or arrays indexed by a variable."""
    shared: int
    """Bytes of shared memory of a program."""
    sass: str
    """The machine code, disassembled."""

    def instructions(self, name):
        """Machine instructions of that name: LOP3, POPC, LDG (LDG.E.128 where it matters), DFMA."""
        return len(re.findall(rf"\s{re.escape(name)}\b", self.sass))

    @property
    def spills(self):
        """Instructions that store to or load from local memory."""
        return self.instructions("STL") + self.instructions("LDL")


def compile_kernel(kernel, signature, constexprs, *, aligned=(), options=None, arch=TARGET):
    """Compile kernel (a triton.jit function).

    signature: argument -> "*i32", "i64", ...; constexprs: argument -> value; aligned: integer arguments known to be
    multiples of 16, as the launcher finds out by itself (pointers are, but those that the kernel says may not be);
    options: num_warps, num_stages, enable_fp_fusion.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    assert set(signature) | set(constexprs) == set(names), f"arguments of {kernel.__name__}: {names}"
    types = {name: "constexpr" if name in constexprs else signature[name] for name in names}
    loose = {parameter.name for parameter in kernel.params if parameter.do_not_specialize_on_alignment}
    whole = [n for n, kind in signature.items() if kind.startswith("*") and n not in loose] + list(aligned)
    attrs = {(names.index(name),): [["tt.divisibility", 16]] for name in whole}
    source = ASTSource(kernel, types, {(names.index(name),): value for name, value in constexprs.items()}, attrs)
    options = {"enable_fp_fusion": True, **(options or {})}
    built = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return inspect_binary(built.asm["cubin"], built.metadata.shared)


def inspect_binary(cubin, shared):
    """Read a binary with the disassembler that triton brings."""
    from triton import knobs

    def dump(what):
        command = [knobs.nvidia.cuobjdump.path, f"--dump-{what}", str(binary)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    with TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(cubin)
        usage, sass = dump("resource-usage"), dump("sass")
    registers, stack, local = (int(re.search(rf"\b{name}:(\d+)", usage).group(1)) for name in ("REG", "STACK", "LOCAL"))
    return Compiled(registers, stack + local, shared, sass)
