#include <cstring>

#include "places.h"

namespace minillm::device {
namespace {

constexpr int64_t together = 128;  // fewer than 4 KB: what a kernel may be given

template <class T>
struct Some {
    int64_t count;
    T items[together];
};

// What the launch brings along: no memory of the host has to stay until it has run.
template <class T>
__global__ void put(Some<T> some, T* to) {
    if (threadIdx.x < some.count) to[threadIdx.x] = some.items[threadIdx.x];
}

template <class T>
void put_all(const std::vector<T>& items, T* to) {
    const auto all = static_cast<int64_t>(items.size());
    for (int64_t first = 0; first < all; first += together) {
        Some<T> some{};
        some.count = all - first < together ? all - first : together;
        std::memcpy(some.items, items.data() + first, sizeof(T) * some.count);
        launch(put<T>, dim3(1), dim3(together), 0, some, to + first);
    }
}

template <class T>
T* room_for(GrowingMemory& memory, size_t count) {
    return reinterpret_cast<T*>(memory.at_least(sizeof(T) / sizeof(float) * count));
}

bool same(const std::vector<LayerKeys>& a, const std::vector<LayerKeys>& b) {
    if (a.size() != b.size()) return false;
    for (size_t i = 0; i < a.size(); i++)
        if (a[i].k != b[i].k || a[i].v != b[i].v || a[i].capacity != b[i].capacity) return false;
    return true;
}

}  // namespace

void PlacesMemory::set(const Tokens& tokens) {
    std::vector<TokenPlace> places;
    std::vector<LayerKeys> keys;
    int64_t texts = 0;
    for (int64_t i = 0; i < tokens.count; i++) {
        places.push_back({tokens.positions[i], tokens.texts[i]});
        if (tokens.texts[i] >= texts) texts = tokens.texts[i] + 1;
    }
    for (int64_t text = 0; text < texts; text++)
        keys.insert(keys.end(), tokens.keys[text]->begin(), tokens.keys[text]->end());
    places_.layers = texts ? static_cast<int64_t>(tokens.keys[0]->size()) : 0;
    auto* on_device = room_for<TokenPlace>(token_memory_, places.size());
    put_all(places, on_device);
    places_.tokens = on_device;
    if (same(keys, known_)) return;
    known_.clear();  // until the device has them
    auto* table = room_for<LayerKeys>(key_memory_, keys.size());
    put_all(keys, table);
    places_.keys = table;
    known_ = std::move(keys);
    uintptr_t all = 0;
    for (const LayerKeys& one : known_)
        all |= reinterpret_cast<uintptr_t>(one.k) | reinterpret_cast<uintptr_t>(one.v);
    by_fours_ = all % 16 == 0;
}

Places PlacesMemory::places() const { return places_; }

void PlacesMemory::release() {
    known_.clear();
    token_memory_.release();
    key_memory_.release();
}

}  // namespace minillm::device
