#pragma once

#include <pybind11/pybind11.h>

namespace minillm {

bool has_products();

// Lets the operations on matrix products be found in the module only where cuBLASLt is: it is
// looked for when the first of them is, which is after CuPy was imported.
void offer_products(pybind11::module_& module);

}  // namespace minillm
