"""Environment variables that PyTorch's libraries read once, when they are loaded."""

from __future__ import annotations

MASKS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
MASKED = {  # what they are called there, by the name that MINILLM_ISA has for them
    "sse4": ("default", "SSE41", "SSE4_2"),
    "avx2": ("avx2", "AVX2", "AVX2"),
    "avx512": ("avx512", "AVX512_CORE", "AVX512"),
}
KEEP_MEMORY = {  # glibc gives nothing back to the system, so no page is touched for the first time
    "MALLOC_MMAP_THRESHOLD_": "17179869184",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


def torch_masks(isa: str | None) -> dict[str, str]:
    """What holds PyTorch to the instruction set that minillm is held to; nothing for None."""
    return dict(zip(MASKS, MASKED.get(isa or "", ())))
