// The functions of ../kernels.h for the GPU; table.cpp lists those that exist.
#pragma once

#include "../kernels.h"
#include "launch.h"

namespace minillm::device {

#define MINILLM_DECLARE(name, arguments) void name arguments;
MINILLM_KERNELS(MINILLM_DECLARE)
#undef MINILLM_DECLARE

}  // namespace minillm::device
