#include "bind_products.h"

#include <string>

#include "products.h"

namespace minillm {
namespace {

constexpr const char* of_products[] = {"matmul_forward",
                                       "linear_forward",
                                       "linear_backward",
                                       "feed_forward_forward",
                                       "feed_forward_backward",
                                       "linear_cross_entropy_forward",
                                       "linear_cross_entropy_backward"};

// CuPy knows where its cuBLAS is and loads cuBLASLt with it; without one there are no products. It
// is asked as by `from cupy_backends.cuda.libs import cublas`: it is the package's __getattr__ that
// looks for the library (CuPy 14), an import of the module itself trusts the system's loader.
void load_by_cupy() {
    try {
        const auto import = pybind11::module_::import("builtins").attr("__import__");
        import("cupy_backends.cuda.libs", pybind11::none(), pybind11::none(),
               pybind11::make_tuple("cublas"));
    } catch (pybind11::error_already_set& error) {
        if (!error.matches(PyExc_ImportError)) throw;
    }
}

}  // namespace

bool has_products() {
    load_by_cupy();
    return device::lt::available();
}

void offer_products(pybind11::module_& module) {
    pybind11::dict offers;
    for (const char* name : of_products) {
        offers[name] = module.attr(name);
        pybind11::delattr(module, name);
    }
    module.def("__getattr__", [module, offers](const std::string& name) -> pybind11::object {
        const pybind11::str key(name);
        if (!offers.contains(key) || !has_products())
            throw pybind11::attribute_error("minillm's library for the GPU has no " + name);
        const pybind11::object function = offers[key];
        pybind11::setattr(module, key, function);
        return function;
    });
}

}  // namespace minillm
