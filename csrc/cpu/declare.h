// The kernels of this instruction set, declared from the one list.
#pragma once

#include "../kernels.h"

namespace minillm::MINILLM_ISA {
#define MINILLM_DECLARE(name, arguments) void name arguments;
MINILLM_KERNELS(MINILLM_DECLARE)
#undef MINILLM_DECLARE
}  // namespace minillm::MINILLM_ISA
