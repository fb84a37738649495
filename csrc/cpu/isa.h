// Which of the compiled instruction sets this processor can run, and which one is in use.
#pragma once

#include <string>
#include <vector>

#include "../kernels.h"

namespace minillm {

std::vector<std::string> available_isas();  // slowest first; empty on a processor too old
const Kernels& kernels();                   // those in use; at first the fastest available
void set_isa(const std::string& name);      // throws std::invalid_argument naming the choices

}  // namespace minillm
