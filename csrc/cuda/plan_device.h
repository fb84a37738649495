// What a plan keeps on a device from call to call.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "../plan.h"
#include "graph.h"
#include "places.h"

namespace minillm {
namespace device {

bool keeps_graphs();  // whether plans repeat the launches of a step as graphs
void set_keeps_graphs(bool wanted);

// All that decides what a step launches, but for addresses.
struct StepKind {
    int64_t tokens, most_keys;
    size_t steps;
    bool keys_by_fours, bf16;
    std::vector<int64_t> wanted;

    bool operator<(const StepKind& other) const { return all() < other.all(); }

 private:
    std::tuple<int64_t, int64_t, size_t, bool, bool, const std::vector<int64_t>&> all() const {
        return {tokens, most_keys, steps, keys_by_fours, bf16, wanted};
    }
};

// The graphs of steps, those used last. A step is captured when its kind is met for the second
// time: the first time loads its kernels and finds out how its products are best done.
class Graphs {
 public:
    void require(std::vector<const void*> addresses);  // forgets graphs of other ones
    bool repeats(const StepKind& kind);                // whether it has been met before
    template <class Work>
    void run(const StepKind& kind, cudaStream_t to_capture, const Work& work) {
        std::optional<Graph>& graph = kept_.at(kind).graph;
        if (!graph) graph.emplace(to_capture, work);
        graph->launch();
    }
    void clear();  // once what was launched on the current stream is done

 private:
    struct Kept {
        std::optional<Graph> graph;
        uint64_t used;
    };
    std::map<StepKind, Kept> kept_;
    std::vector<const void*> addresses_;
    uint64_t calls_ = 0;
};

}  // namespace device

struct Plan::OnDevice {
    OnDevice();
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

    // A call: its stream goes on after the call before, whichever stream that was on.
    class Turn {
     public:
        explicit Turn(OnDevice& plan);
        ~Turn();
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;

     private:
        OnDevice& plan_;
    };

    cudaStream_t own = nullptr;  // captured, and what memory is freed on: others may be gone then
    cudaEvent_t done = nullptr;  // what was launched last
    device::PlacesMemory places;
    device::Graphs graphs;
    GrowingMemory splits;   // of attention
    int64_t most_keys = 0;  // of the tokens of this call, rounded up
};

}  // namespace minillm
