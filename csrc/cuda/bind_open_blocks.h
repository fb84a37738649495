#pragma once

#include <pybind11/pybind11.h>

namespace minillm {

// The rows of a weight that lies in blocks, opened where they lie.
void bind_open_blocks(pybind11::module_& module);

}  // namespace minillm
