// The arena as NumPy's data-memory handler (NEP 49). NumPy keeps with each array the handler that
// made it, so arrays of the arena can be freed anywhere and at any time.
#include <cstring>

#include "arena.h"
#include "bindings.h"

namespace minillm {
namespace {

// From numpy/ndarraytypes.h; part of NumPy's binary interface since 1.22.
struct Allocator {
    void* context;
    void* (*malloc)(void* context, size_t size);
    void* (*calloc)(void* context, size_t count, size_t size);
    void* (*realloc)(void* context, void* data, size_t size);
    void (*free)(void* context, void* data, size_t size);
};
struct Handler {
    char name[127];
    uint8_t version;
    Allocator allocator;
};
constexpr const char* capsule_name = "mem_handler";
constexpr int set_handler_slot = 304, default_handler_slot = 306;  // of numpy/__multiarray_api.h

PyObject* (*set_handler)(PyObject*) = nullptr;  // returns the former one
Allocator small;                                // NumPy's own, for small arrays

void* allocate(void*, size_t size) {
    return size < arena_least ? small.malloc(small.context, size) : arena_allocate(size);
}

void* allocate_zeros(void*, size_t count, size_t size) {
    if (size && count > SIZE_MAX / size) return nullptr;
    if (count * size < arena_least) return small.calloc(small.context, count, size);
    void* const data = arena_allocate(count * size);
    return data ? std::memset(data, 0, count * size) : nullptr;
}

void release(void*, void* data, size_t size) {
    if (!arena_free(data)) small.free(small.context, data, size);
}

void* reallocate(void*, void* data, size_t size) {
    const size_t capacity = arena_capacity(data);
    if (!capacity) {
        // How much a small block holds is not known: it grows where it is, then moves as a whole.
        data = small.realloc(small.context, data, size);
        if (!data || size < arena_least) return data;
    } else if (size <= capacity && size > capacity / 2) {
        return data;
    }
    void* const moved = allocate(nullptr, size);
    if (!moved) return capacity ? nullptr : data;
    std::memcpy(moved, data, capacity && capacity < size ? capacity : size);
    release(nullptr, data, size);
    return moved;
}

Handler handler{"minillm_arena", 1, {nullptr, allocate, allocate_zeros, reallocate, release}};

class Run {
 public:
    Run() : id_(arena_begin_run()) {}
    ~Run() { arena_end_run(id_); }
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;

    pybind11::object begin_step() const { return exchange(capsule()); }
    void end_step(const pybind11::object& former) const {
        exchange(former);
        arena_end_step(id_);
    }

 private:
    static pybind11::object capsule() {
        static PyObject* const one = PyCapsule_New(&handler, capsule_name, nullptr);
        return pybind11::reinterpret_borrow<pybind11::object>(one);
    }
    static pybind11::object exchange(const pybind11::object& next) {
        PyObject* const former = set_handler(next.ptr());
        if (!former) throw pybind11::error_already_set();
        return pybind11::reinterpret_steal<pybind11::object>(former);
    }

    uint64_t id_;
};

void load_numpy() {
    const auto capsule = pybind11::module_::import("numpy._core.multiarray").attr("_ARRAY_API");
    void** const api = static_cast<void**>(PyCapsule_GetPointer(capsule.ptr(), nullptr));
    if (!api) throw pybind11::error_already_set();
    set_handler = reinterpret_cast<PyObject* (*)(PyObject*)>(api[set_handler_slot]);
    PyObject* const own = *static_cast<PyObject**>(api[default_handler_slot]);
    const auto* const numpys = static_cast<Handler*>(PyCapsule_GetPointer(own, capsule_name));
    if (!numpys) throw pybind11::error_already_set();
    small = numpys->allocator;
}

}  // namespace

void bind_arena(pybind11::module_& runtime) {
    using pybind11::arg;
    load_numpy();
    pybind11::class_<Run>(runtime, "Run", "Keeps memory for its steps.")
        .def(pybind11::init<>())
        .def("begin_step", &Run::begin_step,
             "NumPy's arrays come from the arena; the handler before.")
        .def("end_step", &Run::end_step, arg("former"), "Restore the handler.");
    runtime.def("arena_trim", arena_trim, "Return to the system what holds no array.");
    runtime.def(
        "arena_stats",
        [] {
            const ArenaStats stats = arena_stats();
            pybind11::dict found;
            found["in_use"] = stats.in_use;
            found["kept"] = stats.kept;
            found["peak"] = stats.peak;
            return found;
        },
        "Bytes in use, kept besides, and at most since a run began.");
}

}  // namespace minillm
