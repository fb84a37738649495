// Finds cuBLASLt: where CuPy has loaded cuBLAS it is in the process already, else the system's.
#include "cublaslt.h"

#ifdef _WIN32

namespace minillm::device::lt {
const Functions* functions() { return nullptr; }
}  // namespace minillm::device::lt

#else

#include <dlfcn.h>

#include "launch.h"

namespace minillm::device::lt {
namespace {

// The one of the CUDA that this library was built for: a stream is of its runtime.
void* open() {
    const std::string name = "libcublasLt.so." + std::to_string(CUDART_VERSION / 1000);
    void* found = dlopen(name.c_str(), RTLD_NOW | RTLD_NOLOAD);
    return found ? found : dlopen(name.c_str(), RTLD_NOW);
}

bool look_up(void* library, Functions& f) {
    bool all = true;
    const auto find = [&](auto& function, const char* name) {
        function =
            reinterpret_cast<std::remove_reference_t<decltype(function)> >(dlsym(library, name));
        all = all && function;
    };
    find(f.create, "cublasLtCreate");
    find(f.desc_create, "cublasLtMatmulDescCreate");
    find(f.desc_destroy, "cublasLtMatmulDescDestroy");
    find(f.desc_set, "cublasLtMatmulDescSetAttribute");
    find(f.layout_create, "cublasLtMatrixLayoutCreate");
    find(f.layout_destroy, "cublasLtMatrixLayoutDestroy");
    find(f.layout_set, "cublasLtMatrixLayoutSetAttribute");
    find(f.preference_create, "cublasLtMatmulPreferenceCreate");
    find(f.preference_destroy, "cublasLtMatmulPreferenceDestroy");
    find(f.preference_set, "cublasLtMatmulPreferenceSetAttribute");
    find(f.heuristic, "cublasLtMatmulAlgoGetHeuristic");
    find(f.matmul, "cublasLtMatmul");
    return all;
}

}  // namespace

const Functions* functions() {
    static Functions found;
    static const bool there = [] {
        void* library = open();
        return library && look_up(library, found);
    }();
    return there ? &found : nullptr;
}

}  // namespace minillm::device::lt

#endif
